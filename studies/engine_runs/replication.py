"""One run of the engine from an empty start, reduced to the latencies that count."""

from __future__ import annotations

import numpy as np

import discrete
from studies.engine_runs.noise import Counted
from studies.question import Question


def over_time(question: Question, number: int) -> Counted:
    """Return the run of a replication from an empty start, until the last has left."""
    table = question.replication(number)
    if table is None:
        return Counted(np.empty(0), np.empty(0), 0.0)
    at = discrete.simulate(table, question.instance, record_batches=False).requests
    arrival, end = at["arrival_time"], at["completion_time"]
    until = question.end
    inside = float(np.sum(np.minimum(end, until) - arrival)) / until
    return Counted(at["first_token_time"] - arrival, end - arrival, inside)
