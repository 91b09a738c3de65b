"""What the engine says of a scenario: replications until their own standard errors are small."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import RequestTable
from studies.campaign.scenarios import Scenario
from workload import replication_seed

METRICS = ("mean_ttft", "mean_e2el", "p50_ttft", "p99_ttft", "p99_e2el", "mean_in_system")
"""What is compared, latencies [time] and requests."""

CAPACITY, SMALL_THROUGHPUT, FROM = "capacity", 0.002, 0.4
"""Metric of a saturated system [requests/time], standard error that is small enough, and the part
of the horizon that warms the system up."""

SMALL_MEAN, SMALL_TAIL = 0.004, 0.012
"""Relative standard errors of the mean TTFT and of the p99 that are small enough."""

GROUPS = 8
"""Groups of replications, from whose differences standard errors come."""

NOISY, LONGER = 0.04, 4.0
"""Standard error of the mean TTFT above which a scenario may take so many times its budget."""

STEADY_REQUESTS, MOST_REQUESTS = 3000, 40_000
"""Requests of a steady run that are counted, and with its warm-up at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The engine's values.

    Parameters
    ----------
    value, standard_error : by metric
        Of :data:`METRICS`; the standard error is relative.
    replications
        How many runs.
    seconds
        What they took.
    """

    value: Mapping[str, float | None]
    standard_error: Mapping[str, float | None]
    replications: int
    seconds: float


def truth_of(
    scenario: Scenario,
    budget: float = 0.15,
    *,
    small_mean: float = SMALL_MEAN,
    small_tail: float = SMALL_TAIL,
    longer: float = LONGER,
) -> Truth:
    """Return what the engine says, after ``budget`` seconds or once standard errors are small.

    Parameters
    ----------
    scenario
        What is asked.
    budget : [seconds]
        Processor time after which to stop, if standard errors are still large.
    small_mean, small_tail
        Relative standard errors of means and of percentiles that are small enough.
    longer
        Multiple of the budget where the engine is noisy.
    """
    groups = [_Group() for _ in range(GROUPS)]
    began, count = time.process_time(), 0
    while True:
        for group in groups:
            group.add(*_run(scenario, count))
            count += 1
        values, errors = _statistics(scenario, groups)
        spent = time.process_time() - began
        small = max(errors[:2]) <= small_mean and max(errors[3:5]) <= small_tail
        allowed = budget * (longer if errors[0] > NOISY else 1.0)
        if small or spent + spent * GROUPS / count > allowed:
            break
    return Truth(
        dict(zip(METRICS, values.tolist(), strict=True)),
        dict(zip(METRICS, errors.tolist(), strict=True)),
        count,
        spent,
    )


def throughput_of(scenario: Scenario, budget: float = 0.15) -> Truth:
    """Return the completions per time of a saturated system, from 40 % of its horizon on."""
    question, found = scenario.question, []
    began = time.process_time()
    while True:
        table = question.replication(len(found))
        if table is not None:
            run = discrete.simulate(table, question.instance, record_batches=False)
            ended = run.requests["completion_time"]
            until = float(table.arrival_time[-1])
            inside = (ended > FROM * until) & (ended <= until)
            found.append(float(inside.sum()) / ((1 - FROM) * until))
        spent, count = time.process_time() - began, len(found)
        if count < 4:
            continue
        error = float(np.std(found, ddof=1)) / math.sqrt(count) / max(float(np.mean(found)), 1e-300)
        if error <= SMALL_THROUGHPUT or spent + spent / count > budget:
            break
    return Truth({CAPACITY: float(np.mean(found))}, {CAPACITY: error}, count, spent)


class _Group:
    """Latencies of some replications."""

    def __init__(self) -> None:
        self.ttft: list[NDArray[np.float64]] = []
        self.e2el: list[NDArray[np.float64]] = []
        self.in_system: list[float] = []

    def add(self, ttft: NDArray[np.float64], e2el: NDArray[np.float64], in_system: float) -> None:
        """Take one more replication."""
        self.ttft.append(ttft)
        self.e2el.append(e2el)
        self.in_system.append(in_system)


def _run(scenario: Scenario, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return TTFT and E2EL of the requests of one run that count, and the mean in system."""
    question = scenario.question
    if scenario.protocol == "steady":
        warm, table = _steady_requests(scenario, number)
    else:
        warm, table = 0, question.replication(number)
        if table is None:
            return np.empty(0), np.empty(0), 0.0
    run = discrete.simulate(table, question.instance, record_batches=False)
    at = run.requests
    arrival, end = at["arrival_time"][warm:], at["completion_time"][warm:]
    ttft, e2el = at["first_token_time"][warm:] - arrival, end - arrival
    if scenario.protocol == "steady":
        return ttft, e2el, question.known_rate * float(e2el.mean())
    until = question.end
    inside = float(np.sum(np.minimum(end, until) - arrival)) / until
    return ttft, e2el, inside


def _steady_requests(scenario: Scenario, number: int) -> tuple[int, RequestTable]:
    """Return requests at a constant rate, and how many of them warm the system up."""
    question = scenario.question
    settle = 12.0 * max(question.dispersion, 1.0) / (1.0 - question.load) ** 2
    warm = math.ceil(settle + 3.0 * _healthy(question.mix, question.instance, question.known_rate))
    total = min(warm + STEADY_REQUESTS, MOST_REQUESTS)
    seed = replication_seed(question.seed, number)
    return min(warm, total // 2), question.stream.sample(seed, num_requests=total)


def _healthy(mix: object, instance: object, rate: float) -> float:
    """Return the requests in a large system at this rate that live longest."""
    from ode.error_model.features import healthy_step

    return rate * healthy_step(mix, instance, rate) * mix.longest_decode  # type: ignore


def _statistics(
    scenario: Scenario, groups: list[_Group]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every metric and its relative standard error, shape (M,)."""
    ttft = [np.concatenate(each.ttft) for each in groups]
    e2el = [np.concatenate(each.e2el) for each in groups]
    runs = np.array([len(each.in_system) for each in groups])
    inside = np.array([np.mean(each.in_system) for each in groups])
    whole = _values(np.concatenate(ttft), np.concatenate(e2el), float(inside.mean()))
    size = np.array([each.size for each in ttft])
    enough = size > 0
    expected = float(size.sum() / runs.sum())
    rows = []
    for i in np.flatnonzero(enough):
        row = _values(ttft[i], e2el[i], float(inside[i]))
        # a mean over all requests is a ratio of sums: its error is that of the sum less the count's
        row[:2] = whole[:2] + (row[:2] - whole[:2]) * size[i] / (runs[i] * expected)
        rows.append(row)
    spread = np.std(rows, axis=0, ddof=1) / math.sqrt(len(rows))
    return whole, spread / np.abs(whole)


def _values(
    ttft: NDArray[np.float64], e2el: NDArray[np.float64], in_system: float
) -> NDArray[np.float64]:
    tails = np.percentile(ttft, (50, 99))
    return np.array(
        [ttft.mean(), e2el.mean(), tails[0], tails[1], np.percentile(e2el, 99), in_system]
    )
