"""One run of the engine, reduced to the latencies that count."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import RequestTable
from studies.question import Question
from workload import replication_seed

STEADY_REQUESTS, MOST_REQUESTS = 3000, 40_000
"""Requests of a steady run that are counted, and with its warm-up at most."""


class Counted(NamedTuple):
    """TTFT and E2EL [time] of the requests of one run that count, and the mean in system."""

    ttft: NDArray[np.float64]
    e2el: NDArray[np.float64]
    in_system: float


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


def steady(question: Question, number: int) -> Counted:
    """Return the requests of a long run at a constant rate that came after its warm-up."""
    warm, table = steady_requests(question, number)
    at = discrete.simulate(table, question.instance, record_batches=False).requests
    arrival, end = at["arrival_time"][warm:], at["completion_time"][warm:]
    e2el = end - arrival
    return Counted(
        at["first_token_time"][warm:] - arrival, e2el, question.known_rate * float(e2el.mean())
    )


def steady_requests(
    question: Question, number: int, counted: int = STEADY_REQUESTS
) -> tuple[int, RequestTable]:
    """Return requests at a constant rate, and how many of them warm the system up.

    Parameters
    ----------
    question
        A stream without an end, below capacity.
    number
        Of the replication, which says its seed.
    counted
        Requests after the warm-up.
    """
    settle, healthy = warm_up(question)
    warm = math.ceil(settle + 3.0 * healthy)
    total = min(warm + counted, MOST_REQUESTS)
    seed = replication_seed(question.seed, number)
    return min(warm, total // 2), question.stream.sample(seed, num_requests=total)


def warm_up(question: Question) -> tuple[float, float]:
    """Return requests after which queues have settled, and those of a stay of the longest."""
    settle = 12.0 * max(question.dispersion, 1.0) / (1.0 - question.load) ** 2
    return settle, _healthy(question.mix, question.instance, question.known_rate)


def _healthy(mix: Any, instance: Any, rate: float) -> float:
    """Return the requests in a large system at this rate that live longest."""
    from ode.error_model.features import healthy_step

    return rate * healthy_step(mix, instance, rate) * mix.longest_decode
