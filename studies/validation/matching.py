"""A law is matched to measured runs: the engine replays them, and its steps are made to fit.

Which requests share a step is decided by the engine. Given these decisions, the time in which a
request decoded is a sum over steps, linear in the terms of the law. So the terms follow from least
squares; the engine then replays the run with the corrected law, and so on until nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from calibration.measured_runs.law_terms import (
    TERMS,
    Terms,
    least,
    parts,
    reads_by_table,
    shortest_step,
)
from discrete import Run
from serving import BatchTimeLaw, FluidServeError, Instance
from studies.validation.replay import dealt, simulated
from studies.validation.requests import Replayed

PASSES = 8
"""Most replays of each run."""

STILL = 1e-3
"""Largest change of a step's time between two replays at which the terms count as found."""

SPREAD = {"gap": 0.3, "decode": 1.0, "kv": 0.3, "prefill": 0.3}
"""How far a term may be off before anything was measured: of a gap as a share of the shortest step,
of the others as a share of themselves."""

RUN_ERROR = 0.01
"""Share by which the same server differs from one run to the next."""

WEIGHT = 30.0
"""Independent observations that a run counts as: its requests share their steps."""

FEWEST_TOKENS = 20
"""Output tokens from which a request's time per token is worth something."""

FEWEST = 10
"""Requests that a run must contribute."""


@dataclass(frozen=True, slots=True)
class Source:
    """A run that a law is matched to.

    Parameters
    ----------
    requests
        Its requests.
    instance
        Its server; of its law only the starting point is taken.
    replicas
        Engines among which the requests are dealt.
    until : [s]
        Only what was there by then is used.
    """

    requests: Replayed
    instance: Instance
    replicas: int = 1
    until: float = np.inf


@dataclass(frozen=True, slots=True)
class Matched:
    """A law that was matched to runs.

    Parameters
    ----------
    law
        The law.
    terms
        How it differs from the law that it began as.
    requests
        Requests that told something.
    spread
        Median absolute relative error of their decode times.
    front_end : [s]
        Median of what clients measured beyond the engine's time to the first token, of requests
        that did not have to queue; NaN where all did.
    passes
        Replays that it took.
    """

    law: BatchTimeLaw
    terms: Terms
    requests: int
    spread: float
    front_end: float
    passes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """Decode times that add up from the terms: features * terms + rest = measured."""

    features: NDArray[np.float64]
    rest: NDArray[np.float64]
    measured: NDArray[np.float64]
    offsets: NDArray[np.float64]


def match_law(sources: Sequence[Source], law: BatchTimeLaw) -> Matched:
    """Return a law corrected so that the engine's replay takes as long as the runs did.

    Parameters
    ----------
    sources
        The runs.
    law
        Law to begin with, such as that of a profile; what the runs do not tell stays as it is.

    Raises
    ------
    FluidServeError
        If too few requests of the runs tell anything.
    """
    terms, used = Terms(), 0
    equations: list[_Equations] = []
    spread = np.nan
    while used < PASSES:
        used += 1
        present = terms.corrected(law)
        equations = [_equations(source, present, terms) for source in sources]
        found, spread = _solved(equations, law)
        change = _change(equations, terms, found)
        terms = found
        if change < STILL:
            break
    offsets = np.concatenate([each.offsets for each in equations])
    return Matched(
        law=terms.corrected(law), terms=terms,
        requests=sum(each.measured.size for each in equations), spread=spread,
        front_end=float(np.median(offsets)) if offsets.size else np.nan, passes=used,
    )  # fmt: skip


def with_law(instance: Instance, law: BatchTimeLaw) -> Instance:
    """Return the server with another law."""
    node: Any = instance
    return replace(node, batch_time=law)


def _equations(source: Source, law: BatchTimeLaw, terms: Terms) -> _Equations:
    """Replay a run and return the decode times of its requests as sums over the engine's steps."""
    replayed = source.requests
    table, run = replayed.table, replayed.run
    instance = with_law(source.instance, law)
    rows_of = dealt(table, source.replicas)
    found = [
        _of_replica(engine, rows, replayed, source.until, law, terms)
        for rows, engine in zip(rows_of, simulated(table, instance, source.replicas), strict=True)
    ]
    both = _Equations(*(np.concatenate([getattr(each, name) for each in found])
                        for name in ("features", "rest", "measured", "offsets")))  # fmt: skip
    if both.measured.size < FEWEST:
        raise FluidServeError(
            f"{run.name}: {both.measured.size} requests with {FEWEST_TOKENS} output tokens or more "
            f"finished in the part to calibrate on; at least {FEWEST} are needed"
        )
    return both


def _of_replica(
    engine: Run,
    rows: NDArray[np.int64],
    replayed: Replayed,
    until: float,
    law: BatchTimeLaw,
    terms: Terms,
) -> _Equations:
    run, records = replayed.run, engine.requests
    steps = engine.batches
    of_steps = parts(law, steps)
    # back to the terms of the law that the correction starts from
    of_steps[:, 1:4] /= terms.values()[1:]
    of_steps[:, 4] -= np.where(of_steps[:, 4] > 0, terms.gap, 0.0)
    by_table = reads_by_table(law, steps["prefill_tokens"])
    of_steps[:, 3] -= np.where(by_table, terms.gap / terms.prefill, 0.0)
    sums = np.concatenate([np.zeros((1, 5)), np.cumsum(of_steps, axis=0)])

    end = np.asarray(steps["time"], float)
    first, last = records["first_token_time"], np.asarray(records["completion_time"], float)
    tells = (
        np.isfinite(last)
        & run.succeeded[rows]
        & (run.output_tokens[rows] >= FEWEST_TOKENS)
        & (run.finish[rows] <= until)
        & (np.asarray(records["preemption_count"]) == 0)
    )
    near = 1e-9 * max(float(end[-1]), 1.0) if end.size else 0.0
    begins = np.searchsorted(end, first[tells] + near, side="right")
    stops = np.searchsorted(end, last[tells] + near, side="right")
    between = sums[stops] - sums[begins]
    measured = (run.e2el - run.ttft)[rows][tells]
    entered = np.asarray(records["first_enter_running_time"], float)
    queued = entered - records["arrival_time"] > 2 * float(np.median(np.diff(end))) + near
    seen = tells & ~queued
    offsets = run.ttft[rows] - (first - records["arrival_time"])
    return _Equations(between[:, :4], between[:, 4], measured, offsets[seen])


def _solved(equations: Sequence[_Equations], law: BatchTimeLaw) -> tuple[Terms, float]:
    """Return the terms of least squares, and the median relative error that is left.

    Every run weighs the same; a request far from the others counts less.
    """
    scale = np.array([SPREAD["gap"] * shortest_step(law), *(SPREAD[name] for name in TERMS[1:])])
    start = Terms().values()
    features = np.concatenate([each.features / each.measured[:, None] for each in equations])
    wanted = np.concatenate([1 - each.rest / each.measured for each in equations])
    share = np.concatenate(
        [np.full(each.measured.size, np.sqrt(WEIGHT / each.measured.size)) for each in equations]
    )
    share /= RUN_ERROR
    weight, lower = share, (least(law) - start) / scale
    found, error = start, np.inf
    for _ in range(10):
        matrix = np.concatenate([features * scale * weight[:, None], np.eye(len(TERMS))])
        right = np.concatenate([(wanted - features @ start) * weight, np.zeros(len(TERMS))])
        answer = lsq_linear(matrix, right, bounds=(lower, np.inf))
        found = start + scale * answer.x
        left = features @ found - wanted
        error = float(np.median(np.abs(left)))
        weight = share / np.sqrt(1 + (left / (3 * max(error, 1e-4))) ** 2)
    return Terms.of(found), error


def _change(equations: Sequence[_Equations], before: Terms, after: Terms) -> float:
    """Return by how much decode times change, relatively, on average."""
    changes = [
        np.abs(each.features @ (after.values() - before.values()) / each.measured).mean()
        for each in equations
    ]
    return float(np.max(changes))
