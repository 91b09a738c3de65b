"""The engine's answer in a steady state: long runs, cut into pieces that hardly know each other."""

from __future__ import annotations

import math

import discrete
from serving import Distribution, FluidServeError, LatencySamples, UnsupportedError
from studies.automatic.by_engine import (
    MOST_GROWTH,
    PER_REQUEST,
    QUANTILE,
    SPARE,
    ByEngine,
    engine_error,
    half_width,
)
from studies.engine_runs import MOST_REQUESTS, Group, statistics, steady_requests, warm_up
from studies.engine_runs.clock import Clock, OverBudgetError
from studies.engine_runs.pool import pooled
from studies.question import Question

PIECES = 8
"""Pieces of a run, or runs, whose differences tell the noise."""

SHORTEST = 400
"""Requests of a piece at least."""

LATENCIES = ("ttft", "tpot", "e2el", "queue_delay")


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
    if not question.load < 1:
        raise UnsupportedError(f"at a load of {question.load:.3g} there is no steady state")
    settle, healthy = warm_up(question)
    if (warm := settle + 3 * healthy) > MOST_REQUESTS / 2:  # a run would begin to count too early
        raise UnsupportedError(
            f"at a load of {question.load:.3g} queues settle after some {warm:,.0f} requests, more "
            f"than the {MOST_REQUESTS // 2:,} that a run of the engine can have before it counts"
        )
    piece = math.ceil(max(SHORTEST, 2 * settle + healthy))
    # pieces of a run are as good as runs where each is longer than what it remembers
    is_cut = warm + PIECES * piece <= MOST_REQUESTS
    counted = PIECES * piece if is_cut else piece
    if PER_REQUEST * counted * (1 if is_cut else PIECES) > budget:
        raise OverBudgetError(f"a steady run takes the engine longer than {budget:g} s")
    clock = Clock(question, budget)
    groups = [Group() for _ in range(PIECES)]
    samples: list[LatencySamples] = []
    more = 1 if is_cut else PIECES
    while True:
        try:
            for _ in range(more):
                found = _run(question, len(samples), counted, clock)
                samples.append(found)
                parts = PIECES if is_cut else 1
                for k in range(parts):
                    group = groups[k if is_cut else (len(samples) - 1) % PIECES]
                    part = slice(k * found.ttft.size // parts, (k + 1) * found.ttft.size // parts)
                    e2el = found.e2el[part]
                    group.add(found.ttft[part], e2el, question.known_rate * float(e2el.mean()))
        except OverBudgetError:
            if not all(group.ttft for group in groups):
                raise
            more = 0
        means, errors = statistics(groups)
        widths = QUANTILE[PIECES] * errors
        excess = half_width(widths) / math.log1p(within)
        if more and excess > 1:
            left = (budget - clock.spent) / max(clock.spent / len(samples), 1e-9)
            needed = len(samples) * (min(SPARE * excess**2, MOST_GROWTH) - 1) + 1
            more = int(min(needed, left))
        else:
            more = 0
        if more < 1:
            every = pooled(samples)
            of = {name: Distribution.of(*every.of(name)) for name in LATENCIES}
            return ByEngine(engine_error(means, widths, len(samples)), of)


def _run(question: Question, number: int, counted: int, clock: Clock) -> LatencySamples:
    """Return the latencies of a run after its warm-up."""
    warm, table = steady_requests(question, number, counted)
    run = discrete.simulate(
        table, question.instance, seed=question.seed + number, record_batches=False,
        progress=clock.look,
    )  # fmt: skip
    if not run.finished:
        raise FluidServeError("the engine came to a stop before every request had an answer")
    return run.samples(warm)
