"""Runs of the engine, and what they say of a question: latencies that count, and their noise."""

from studies.engine_runs.joined import Apart as Apart
from studies.engine_runs.joined import can_be_joined as can_be_joined
from studies.engine_runs.joined import joined as joined
from studies.engine_runs.noise import METRICS as METRICS
from studies.engine_runs.noise import Counted as Counted
from studies.engine_runs.noise import Group as Group
from studies.engine_runs.noise import statistics as statistics
from studies.engine_runs.replication import over_time as over_time
from studies.engine_runs.steady_run import PIECES as PIECES
from studies.engine_runs.steady_run import Length as Length
from studies.engine_runs.steady_run import length_of as length_of
from studies.engine_runs.steady_run import pieces_of as pieces_of
from studies.engine_runs.steady_run import run_of as run_of
