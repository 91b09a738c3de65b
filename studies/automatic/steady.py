"""The engine's answer in a steady state: long runs, cut into pieces that hardly know each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from discrete import Progress
from serving import Distribution, LatencySamples
from studies.automatic.by_engine import (
    MOST_GROWTH,
    QUANTILE,
    SPARE,
    ByEngine,
    engine_error,
    half_width,
)
from studies.engine_runs import PIECES, Group, length_of, pieces_of, run_of, statistics
from studies.engine_runs.clock import Clock, OverBudgetError
from studies.engine_runs.pool import pooled
from studies.question import Question

SHORTEST = 400
"""Requests of a piece at least."""

LATENCIES = ("ttft", "tpot", "e2el", "queue_delay")

LEAST, POOLED = 1e-6, 4e-7
"""Seconds that a request of a run costs at least, and what percentiles of all runs take for it."""

EARLY, SURELY = 0.1, 1.5
"""Part of the budget after which a first run is stopped that would take so many times the budget,
as far as is known by then."""

DRIFTS = 3.5
"""Standard errors of their difference by which the halves of runs that have not settled differ."""


def steady(question: Question, within: float, budget: float) -> ByEngine:
    """Return the engine's answer to a question without an end.

    Parameters
    ----------
    question
        A constant rate below capacity.
    within, budget
        See :func:`studies.automatic.by_engine.over_time`.

    Raises
    ------
    OverBudgetError
        If it would take longer to tell anything.
    FluidServeError
        If there is no steady state, or the engine does not get to an end.
    """
    length = length_of(question, SHORTEST)
    if LEAST * length.total > budget:
        raise OverBudgetError(f"a steady run takes the engine longer than {budget:g} s")
    clock = Clock(question, budget)
    groups = [Group() for _ in range(PIECES)]
    samples: list[LatencySamples] = []
    more = 1
    while True:
        try:
            for _ in range(more):
                look = clock.look if samples else first_look(clock)
                samples.append(run_of(question, len(samples), length, look))
                for group, piece in zip(
                    groups, pieces_of(samples[-1], question.known_rate), strict=True
                ):
                    group.add(*piece)
        except OverBudgetError:
            if not samples:
                raise
            more = 0
        means, errors = statistics(groups)
        widths = QUANTILE[PIECES] * length.doubt * errors
        widths += drift(groups, length.doubt)
        excess = half_width(widths) / math.log1p(within)
        if more and excess > 1:
            pooling = POOLED * PIECES * length.piece
            each = max(clock.spent / len(samples), 1e-9) + pooling
            left = (budget - clock.spent - pooling * len(samples)) / each
            needed = len(samples) * (min(SPARE * excess**2, MOST_GROWTH) - 1) + 1
            more = int(min(needed, left))
        else:
            more = 0
        if more < 1:
            every = pooled(samples)
            of = {name: Distribution.of(*every.of(name)) for name in LATENCIES}
            return ByEngine(engine_error(means, widths, len(samples)), of)


def drift(groups: list[Group], doubt: float) -> NDArray[np.float64]:
    """Return how much the later half of runs differs from the earlier one, relative, shape (M,).

    Parameters
    ----------
    groups
        Pieces of runs, the earliest first.
    doubt
        See :attr:`studies.engine_runs.Length.doubt`. A difference that noise explains is 0.
    """
    half = len(groups) // 2
    (early, unsure), (late, vague) = (statistics(each) for each in (groups[:half], groups[half:]))
    change = np.abs(late - early)
    noise = doubt * np.hypot(early * unsure, late * vague)
    known = np.minimum(early, late) > 0
    relative = np.divide(change, np.minimum(early, late), out=np.zeros_like(change), where=known)
    return np.where(change > DRIFTS * noise, relative, 0.0)


def first_look(clock: Clock) -> Callable[[Progress], None]:
    """Return what stops a first run as soon as it is clear that it will not get to its end."""

    def look(now: Progress) -> None:
        clock.look(now)
        spent = clock.spent
        if spent > EARLY * clock.budget and spent * now.total > SURELY * clock.budget * now.arrived:
            raise OverBudgetError(
                f"a steady run of the engine takes some {spent * now.total / now.arrived:.0f} s, "
                f"more than {clock.budget:g} s"
            )

    return look
