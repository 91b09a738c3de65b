"""Two knobs at once for the most goodput: a grid by the fluid model, its best by the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving import (
    ConfigError,
    LatencySamples,
    SolveError,
    UnsupportedError,
    check_defined,
    kind_of,
)
from studies.question import Question
from studies.tuning.engine import SteadyRun, run_steadily
from studies.tuning.hazards import hazards
from studies.tuning.knobs import Knob, bracket_of, knob_named
from studies.tuning.length import deciding_length, too_long, turnover
from studies.tuning.screening import load_of
from studies.tuning.settings import GoodputSettings, SearchSettings
from studies.tuning.tune import Told

At = tuple[int, int]
"""Position on the grid: numbers of the values of the two knobs."""


@dataclass(frozen=True, slots=True)
class GoodputPoint:
    """Values of two knobs, and the goodput there.

    Parameters
    ----------
    values
        Values of the knobs.
    fluid : [requests/time] or None
        What the fluid model predicts; None where it has no answer.
    engine : shape (R,) [requests/time]
        What each replication of the engine had; empty where the engine was not asked.
    """

    values: tuple[float, float]
    fluid: float | None
    engine: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean goodput over replications [requests/time]."""
        return float(np.mean(self.engine)) if self.engine else math.nan


@dataclass(frozen=True, slots=True)
class GoodputSearch:
    """The best of what the engine confirmed, and how far it is from the next.

    Parameters
    ----------
    knobs
        What was turned.
    thresholds
        Largest latency of a good request [time], by name.
    points
        The grid; those that the engine confirmed first, best first.
    settings
        What the search might spend.
    lead
        Confidence interval of the best less the second best, on common draws [requests/time].
    warnings
        What a user should know.
    """

    knobs: tuple[Knob, Knob]
    thresholds: Mapping[str, float]
    points: tuple[GoodputPoint, ...]
    settings: GoodputSettings
    lead: tuple[float, float] | None
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> GoodputPoint | None:
        """The confirmed point of the most goodput; None where no request is good anywhere."""
        first = self.points[0]
        return first if first.engine and first.mean > 0 else None

    @property
    def fluid_runs(self) -> int:
        """Points of the grid at which the fluid model had an answer."""
        return sum(point.fluid is not None for point in self.points)

    @property
    def engine_runs(self) -> int:
        """Runs of the engine."""
        return sum(len(point.engine) for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the command prints it."""
        best = self.best
        return {
            "knobs": [knob.name for knob in self.knobs],
            "values": list(best.values) if best else None,
            "goodput": best.mean if best else None,
            "fluid_goodput": best.fluid if best else None,
            "reason": "most goodput among the points confirmed"
            if best
            else "impossible: no request meets the thresholds at any point that the engine ran",
            "lead_over_next": list(self.lead) if self.lead else None,
            "lead_is_certain": bool(self.lead and self.lead[0] > 0),
            "thresholds": dict(self.thresholds),
            "engine_runs": self.engine_runs,
            "fluid_runs": self.fluid_runs,
            "engine_runs_plain_grid": len(self.points) * self.settings.replications,
            "confirmed": [
                {"values": list(p.values), "fluid": p.fluid, "engine": p.mean}
                for p in self.points
                if p.engine
            ],
            "run_length": self.settings.requests,
            "warnings": list(self.warnings),
        }


def most_goodput(
    knobs: Sequence[str | Knob],
    question: Question,
    thresholds: Mapping[str, float],
    *,
    brackets: Sequence[tuple[float, float] | None] = (None, None),
    settings: GoodputSettings | None = None,
    told: Told | None = None,
) -> GoodputSearch:
    """Search two knobs for the most requests per time that meet every threshold.

    The fluid model takes the whole grid; the engine takes the fluid's best points, and then the
    neighbours of the best it has found until none is better: a hill climb from a good start, on
    common draws. It finds the best of the grid where goodput has one peak there.

    Parameters
    ----------
    knobs
        Two of them, each by the name that the question's instance gives it, or one's own.
    question
        Steady stream and instance. The search sets the length of its runs.
    thresholds
        Largest latency of a good request [time], by name.
    brackets
        Where to look; each knob's own by default.
    settings
        What the search may spend.
    told
        Called with a word on progress.

    Raises
    ------
    ConfigError
        For a knob, a bracket or thresholds that are not allowed, a stream without a steady state,
        or runs too short for a node of this size.
    UnsupportedError
        If the question is about a file, or a threshold on a latency that no request has.
    """
    question.stream.check_steady()
    check_defined(thresholds, question.mix.longest_decode)
    settings = GoodputSettings() if settings is None else settings
    first, second = _two_knobs(knobs, question)
    if not thresholds:
        raise ConfigError("goodput", thresholds, "a threshold on one latency at least")
    axes = [
        knob.spaced(bracket_of(knob, question, bracket), settings.steps)
        for knob, bracket in zip((first, second), brackets, strict=True)
    ]

    def turned(at: At) -> Question:
        return second.turned(first.turned(question, axes[0][at[0]]), axes[1][at[1]])

    last = (len(axes[0]) - 1, len(axes[1]) - 1)
    corners = [turned((i, j)) for i in {0, last[0]} for j in {0, last[1]}]
    settings = _long_enough(settings, turnover(corners))

    swapped: dict[At, float] = {}

    def confirmed(at: At) -> tuple[float, ...]:
        if told is not None:
            told(f"{first.name} {axes[0][at[0]]:.6g}, {second.name} {axes[1][at[1]]:.6g}")
        there, goodput = turned(at), []
        for replication in range(settings.replications):
            steady = run_steadily(there, settings.requests, replication)
            goodput.append(measured_goodput(there, steady, thresholds))
            swapped[at] = max(swapped.get(at, 0.0), steady.most_swapped)
        return tuple(goodput)

    grid = [(i, j) for i in range(len(axes[0])) for j in range(len(axes[1]))]
    fluid = {at: predicted_goodput(turned(at), thresholds) for at in grid}
    engine = _climbed(_start(fluid, settings.confirmed), fluid, confirmed)
    ranked = sorted(engine, key=lambda at: -np.mean(engine[at]))
    points = [
        GoodputPoint((axes[0][at[0]], axes[1][at[1]]), fluid[at], engine.get(at, ()))
        for at in (*ranked, *(at for at in grid if at not in engine))
    ]
    lead = None
    if len(ranked) > 1:
        lead = _lead(engine[ranked[0]], engine[ranked[1]], settings.confidence)
    found = GoodputSearch((first, second), dict(thresholds), tuple(points), settings, lead)
    if found.best is None:
        return found
    return replace(found, warnings=tuple(hazards(turned(ranked[0]), swapped[ranked[0]])))


def _long_enough(settings: GoodputSettings, of_node: float) -> GoodputSettings:
    """Return settings whose runs are long enough for a node of so large a turnover [requests].

    Raises
    ------
    ConfigError
        If runs would have to be longer than a search of one knob runs by default.
    """
    needed = deciding_length(of_node)
    if max(settings.requests, SearchSettings().most_requests) < needed:
        raise ConfigError("requests", settings.requests, too_long(of_node))
    return replace(settings, requests=max(settings.requests, needed))


def _two_knobs(knobs: Sequence[str | Knob], question: Question) -> tuple[Knob, Knob]:
    kind = kind_of(question.instance)
    chosen = [knob_named(each, kind) if isinstance(each, str) else each for each in knobs]
    if len(chosen) != 2 or chosen[0].name == chosen[1].name:
        raise ConfigError("knob", ",".join(knob.name for knob in chosen), "two different knobs")
    return chosen[0], chosen[1]


def _start(fluid: Mapping[At, float | None], count: int) -> list[At]:
    """Return the points that the engine runs first, out of the whole grid.

    Where the fluid model has no answer at a point the engine may still look there, but last. Where
    it has none at all, the points are spread over the grid.
    """
    grid = list(fluid)
    if all(goodput is None for goodput in fluid.values()):
        return [grid[i] for i in np.linspace(0, len(grid) - 1, min(count, len(grid))).astype(int)]
    return sorted(grid, key=lambda at: -(fluid[at] or 0.0))[:count]


def _climbed(
    start: Sequence[At], grid: Mapping[At, Any], confirmed: Callable[[At], tuple[float, ...]]
) -> dict[At, tuple[float, ...]]:
    """Return the goodput of each replication at the start and on the way up to the best point."""
    engine = {at: confirmed(at) for at in start}
    while True:
        best = max(engine, key=lambda at: np.mean(engine[at]))
        near = [(best[0] + i, best[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        new = [at for at in near if at in grid and at not in engine]
        if not new:
            return engine
        engine |= {at: confirmed(at) for at in new}


def _lead(best: Sequence[float], second: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return a confidence interval of what the best is ahead of the second best."""
    from scipy.stats import t

    gaps = np.subtract(best, second)
    half = float(t.ppf(0.5 + confidence / 2, gaps.size - 1) * gaps.std(ddof=1))
    half /= math.sqrt(gaps.size)
    return float(gaps.mean()) - half, float(gaps.mean()) + half


def predicted_goodput(question: Question, thresholds: Mapping[str, float]) -> float | None:
    """Return the fluid model's goodput [requests/time]: 0 beyond capacity, None without answer."""
    from ode import stationary

    rate = question.stream.mean_rate
    try:
        if load_of(question) >= 1:
            return 0.0
        found = stationary(
            question.mix,
            question.instance,
            rate,
            dispersion=question.dispersion,
            approximate=True,
        )
    except SolveError as error:
        return 0.0 if error.status == "overload" else None
    except UnsupportedError:
        return None
    return rate * _share_good(found.samples, thresholds)


def measured_goodput(
    question: Question, steady: SteadyRun, thresholds: Mapping[str, float]
) -> float:
    """Return the goodput [requests/time] of a run after the warm-up; 0 where it is swamped."""
    if steady.is_swamped:
        return 0.0
    return question.stream.mean_rate * _share_good(steady.samples, thresholds)


def _share_good(samples: LatencySamples, thresholds: Mapping[str, float]) -> float:
    """Return the share of the requests that meet every threshold."""
    met = np.ones(samples.weight.size, bool)
    for name, threshold in thresholds.items():
        met &= ~(getattr(samples, name) > threshold)
    return float(samples.weight[met].sum() / samples.weight.sum())
