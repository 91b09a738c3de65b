"""Runs of the engine, and what they say of a question: latencies that count, and their noise."""

from studies.engine_runs.joined import Apart as Apart
from studies.engine_runs.joined import can_be_joined as can_be_joined
from studies.engine_runs.joined import joined as joined
from studies.engine_runs.noise import METRICS as METRICS
from studies.engine_runs.noise import Group as Group
from studies.engine_runs.noise import statistics as statistics
from studies.engine_runs.replication import MOST_REQUESTS as MOST_REQUESTS
from studies.engine_runs.replication import over_time as over_time
from studies.engine_runs.replication import steady as steady
from studies.engine_runs.replication import steady_requests as steady_requests
from studies.engine_runs.replication import warm_up as warm_up
