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
from studies.automatic.by_engine import QUANTILE
from studies.campaign.scenarios import OVERLOAD, Scenario
from studies.engine_runs import (
    METRICS,
    PIECES,
    Group,
    length_of,
    over_time,
    pieces_of,
    run_of,
    statistics,
)
from studies.question import Question

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

GROUPS = PIECES
"""Groups of replications, or pieces of runs in a steady state, from whose differences standard
errors come."""

STEADY_REQUESTS = 3000
"""Requests of a piece at least."""

SURELY = QUANTILE[GROUPS]
"""Standard errors to both sides that hold 90 % of the means of so many groups (Student's law)."""

NOISY, LONGER = 0.04, 4.0
"""Standard error of the mean TTFT above which a scenario may take so many times its budget."""


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

    Raises
    ------
    UnsupportedError
        If no run of the engine gets to a steady state.
    """
    question, is_steady = scenario.question, scenario.protocol == "steady"
    length = length_of(question, STEADY_REQUESTS) if is_steady else None
    groups = [Group() for _ in range(GROUPS)]
    began, count = time.process_time(), 0
    while True:
        before = count
        if length is None:
            found = [over_time(question, count + k) for k in range(GROUPS)]
        else:
            found = pieces_of(run_of(question, count, length), question.known_rate)
        count += GROUPS if length is None else 1
        for group, counted in zip(groups, found, strict=True):
            group.add(*counted)
        values, errors = statistics(groups)
        if length is not None:
            errors = length.doubt * errors
        spent = time.process_time() - began
        small = max(errors[:2]) <= small_mean and max(errors[3:5]) <= small_tail
        allowed = budget * (longer if errors[0] > NOISY else 1.0)
        if small or spent + spent * (count - before) / count > allowed:
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
