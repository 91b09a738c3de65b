"""What the engine says of a scenario: replications until their own standard errors are small."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from ode.error_model.model import THROUGHPUT
from serving import RequestMix, RequestTable
from studies.campaign.scenarios import OVERLOAD, Scenario
from studies.question import Question
from workload import replication_seed

METRICS = ("mean_ttft", "mean_e2el", "p50_ttft", "p99_ttft", "p99_e2el", "mean_in_system")
"""What is compared, latencies [time] and requests."""

SMALL_THROUGHPUT, FROM = 0.002, 0.4
"""Standard error of the throughput of a saturated system that is small enough, and the part of the
horizon that warms the system up."""

LONGEST_STAYS, MOST_SATURATED = 4.0, 20_000
"""Horizon of a saturated system in stays of the longest request at least, and its requests at
most."""

FEWEST_RUNS, SHORTEST = 3, 0.4
"""Runs of a saturated system at least, and the part of its horizon that they take at least."""

KEEPS_UP = 0.97
"""Share of the arrivals from which on a system that completes it is not saturated."""

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
    """Return the completions per time [requests/time] of a saturated system, once it is warm.

    Who completes in a window is a sample of the mix, and the sample's own lengths are most of the
    chance in their number. In the long run the work, the answers and the prompts that complete per
    time are their means times the throughput; that of these counts which scatters least is taken.
    Where the system keeps up with what arrives it is not saturated, and there is no value.
    """
    question, found = _saturating(scenario), []
    began = time.process_time()
    while True:
        table = question.replication(len(found))
        if table is not None:
            run = discrete.simulate(table, question.instance, record_batches=False)
            ended = run.requests["completion_time"]
            until = float(table.arrival_time[-1])
            found.append(rates_of(table, ended, question.mix, (FROM * until, until)))
        spent, count = time.process_time() - began, len(found)
        if count < FEWEST_RUNS:
            continue
        rate, error = best_rate(found)
        if error <= SMALL_THROUGHPUT or spent + spent / count > budget:
            break
    keeps_up = rate > KEEPS_UP * question.mean_rate
    return Truth({THROUGHPUT: None if keeps_up else rate}, {THROUGHPUT: error}, count, spent)


def rates_of(
    table: RequestTable, ended: NDArray[np.float64], mix: RequestMix, window: tuple[float, float]
) -> NDArray[np.float64]:
    """Return completions per time [requests/time] in a window, counted in each way, shape (5,)."""
    inside = (ended > window[0]) & (ended <= window[1])
    done = _counts(table.prefill_length[inside], table.decode_length[inside]).sum(axis=1)
    mean = _counts(mix.prefill, mix.decode) @ mix.probability
    return done / mean / (window[1] - window[0])


def best_rate(found: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the mean over runs of the count that scatters least, and its relative error."""
    rates = np.mean(found, axis=0)
    errors = np.std(found, axis=0, ddof=1) / math.sqrt(len(found)) / np.maximum(rates, 1e-300)
    best = int(np.argmin(errors))
    return float(rates[best]), float(errors[best])


def _counts(prefill: NDArray[Any], decode: NDArray[Any]) -> NDArray[np.float64]:
    """Return what completions are counted by, shape (5, R)."""
    p, d = prefill.astype(float), decode.astype(float)
    return np.stack([np.ones_like(p), p * d + d * (d + 1) / 2, d, p + d, p])


def _saturating(scenario: Scenario) -> Question:
    """Return the question at a rate beyond all that the system keeps up with, for long enough."""
    from fluid import capacity, highest_rate, saturation

    question = scenario.question
    mix, instance = question.mix, question.instance
    most = OVERLOAD * max(highest_rate(mix, instance), capacity(mix, instance))
    rate = max(question.mean_rate, most)
    longest = mix.longest_decode * float(saturation(mix, instance).batch_time)
    usual = question.end * question.mean_rate / rate
    horizon = min(max(usual, LONGEST_STAYS * longest), MOST_SATURATED / rate)
    return question.at_rate(rate).until(max(horizon, SHORTEST * usual))


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
