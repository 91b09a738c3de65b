"""The engine's answer over time: replications until their own standard errors are small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import discrete
from ode.error_model.model import Expected
from ode.error_model.report import DECIDING, ErrorReport
from serving import (
    Distribution,
    FluidServeError,
    RequestTable,
    ServingMetrics,
    Trajectory,
    UnsupportedError,
    kind_of,
)
from studies.engine_runs import METRICS, statistics
from studies.engine_runs.clock import Clock, OverBudgetError
from studies.engine_runs.pool import Pool
from studies.question import Question

QUANTILE = {4: 2.353, 8: 1.895, 16: 1.753, 32: 1.696}
"""By groups of runs: standard errors to both sides that hold 90 % of means (Student's law)."""

PER_GROUP = 500
"""Requests of a group from which more groups are better than larger ones."""

LARGE = 2000
"""Arrivals of a run from which a first look takes four runs and not eight."""

MOST_GROWTH, SPARE = 4.0, 1.15
"""Runs after a look over those before it at most, and those asked for over those needed."""

MOST_REQUESTS = 4_000_000
"""Requests of all runs together, beyond which no more are made."""

PER_REQUEST = 4e-6
"""Seconds that a request costs at least, draw and tables included."""


@dataclass(frozen=True, slots=True, eq=False)
class ByEngine:
    """What the engine says.

    Parameters
    ----------
    error
        Noise of its means.
    latencies
        By name.
    metrics_of
        From thresholds to the metrics; None in a steady state.
    trajectory
        Mean of its outputs over time; None in a steady state.
    """

    error: ErrorReport
    latencies: Mapping[str, Distribution]
    metrics_of: Pool | discrete.Run | None = None
    trajectory: Trajectory | None = None

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics over all requests of all runs.

        Raises
        ------
        UnsupportedError
            For a steady state, which has latencies alone.
        """
        if self.metrics_of is None:
            raise UnsupportedError("a steady state has latencies, and no totals of a run")
        return self.metrics_of.metrics(goodput)


def over_time(question: Question, within: float, budget: float) -> ByEngine:
    """Return the engine's answer to a question that ends.

    Parameters
    ----------
    question
        Of requests with given times, one run is the answer, unless the engine draws at random.
    within
        How far off mean and p99 of TTFT and E2EL may be, with a chance of 90 %.
    budget : [seconds]
        Processor time that the runs may take together.

    Raises
    ------
    OverBudgetError
        If it would take longer to tell anything.
    FluidServeError
        If the engine cannot be asked, or does not get to an end.
    """
    is_file = isinstance(question.source, RequestTable)
    arrivals = question.size if is_file else question.profile.total
    if PER_REQUEST * arrivals > budget:
        raise OverBudgetError(f"{arrivals:,.0f} requests take the engine longer than {budget:g} s")
    clock = Clock(question, budget)
    if is_file and not kind_of(question.instance).is_random(question.instance):
        return _exact(question, clock)
    pool = Pool(question.until(question.end), clock)
    more = 4 if arrivals > LARGE else 8
    is_spent = False
    while True:
        try:
            pool.add(more)
        except OverBudgetError:
            if pool.count < min(QUANTILE):
                raise
            is_spent = True
        means, errors, quantile = _noise(pool)
        more = _more(pool, half_width(quantile * errors) / math.log1p(within), clock)
        if more == 0 or is_spent:
            return ByEngine(
                engine_error(means, quantile * errors, pool.count),
                pool.metrics().latencies, pool, pool.trajectory,
            )  # fmt: skip


_DECIDING = [METRICS.index(name) for name in DECIDING]


def half_width(of: NDArray[np.float64]) -> float:
    """Return the widest of those that decide; of one that nobody knows, infinity."""
    return float(np.max(np.nan_to_num(of[_DECIDING], nan=math.inf)))


def _more(pool: Pool, excess: float, clock: Clock) -> int:
    """Return how many more runs to make.

    Parameters
    ----------
    pool
        Runs so far.
    excess
        Half-width over the one that is wanted.
    clock
        Whose budget they must not exceed.
    """
    if excess <= 1:
        return 0
    needed = pool.count * (min(SPARE * excess**2, MOST_GROWTH) - 1)
    left = (clock.budget - clock.spent) / max(clock.spent / pool.count, 1e-9)
    room = (MOST_REQUESTS - pool.requests) * pool.count / max(pool.requests, 1)
    more = int(min(needed + 1, left, room))
    return max(more, 0)


def _noise(pool: Pool) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return means, relative standard errors and the quantile that makes half-widths of them."""
    useful = [each for each in QUANTILE if each <= pool.count]
    groups = next(
        (each for each in reversed(useful) if each * PER_GROUP <= pool.requests),
        useful[min(1, len(useful) - 1)],
    )
    means, errors = statistics(pool.groups(groups))
    return means, errors, QUANTILE[groups]


def engine_error(
    means: NDArray[np.float64], half_width: NDArray[np.float64], count: int
) -> ErrorReport:
    """Return what the noise of the engine's means over ``count`` runs is as an expected error.

    Parameters
    ----------
    means, half_width : shape (M,)
        Of :data:`studies.engine_runs.METRICS`; half-widths are relative.
    count
        How many runs.
    """
    known = np.isfinite(means) & np.isfinite(half_width)
    errors = {
        name: Expected(0.0, float(half_width[k])) for k, name in enumerate(METRICS) if known[k]
    }
    missing = [name for name in DECIDING if name not in errors]
    reason = f"the engine's runs do not tell {', '.join(missing)}" if missing else None
    return ErrorReport(errors, reason, count)


def _exact(question: Question, clock: Clock) -> ByEngine:
    """Return the one run of exactly these requests."""
    run = discrete.simulate(
        question.requests, question.instance, seed=question.seed, progress=clock.look
    )
    if not run.finished:
        raise FluidServeError("the engine came to a stop before every request had an answer")
    error = ErrorReport({name: Expected(0.0, 0.0) for name in METRICS}, None, 1)
    return ByEngine(error, run.metrics().latencies, run, run.trajectory())
