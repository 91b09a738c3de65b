"""Two knobs at once for the most goodput: a grid by the fluid model, its best by the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import discrete
from serving import ConfigError, LatencySamples, SolveError, UnsupportedError
from studies.tuning.engine import HOPELESS, WARM_UP
from studies.tuning.knobs import Knob, Operation, knob_named
from studies.tuning.screening import load_of
from studies.tuning.tune import CONFIDENCE, LEAST_REQUESTS, Told, check_bracket

STEPS = 9
CONFIRMED = 6
"""Points of the grid that the engine confirms, the fluid's best first."""

REPLICATIONS = 5
RUN_LENGTH = 5 * LEAST_REQUESTS


@dataclass(frozen=True, slots=True)
class GoodputPoint:
    """Values of two knobs, and the goodput there.

    Parameters
    ----------
    values
        Of the knobs.
    fluid : [requests/time] or None
        What the fluid model predicts; None where it has no answer.
    engine : shape (R,) [requests/time]
        Of each replication; empty where the engine was not asked.
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
    knobs, thresholds
        What was turned; what a good request meets [time].
    points
        The grid; those that the engine confirmed first, best first.
    fluid_runs, engine_runs
        What it took.
    lead
        Confidence interval of the best less the second best, on common draws [requests/time].
    """

    knobs: tuple[Knob, Knob]
    thresholds: Mapping[str, float]
    points: tuple[GoodputPoint, ...]
    fluid_runs: int
    engine_runs: int
    lead: tuple[float, float] | None

    @property
    def best(self) -> GoodputPoint | None:
        """The confirmed point of the most goodput; None where no request is good anywhere."""
        first = self.points[0]
        return first if first.engine and first.mean > 0 else None

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
            else "impossible: no request meets the thresholds anywhere on the grid",
            "lead_over_next": list(self.lead) if self.lead else None,
            "lead_is_certain": bool(self.lead and self.lead[0] > 0),
            "thresholds": dict(self.thresholds),
            "engine_runs": self.engine_runs,
            "fluid_runs": self.fluid_runs,
            "engine_runs_plain_grid": len(self.points) * REPLICATIONS,
            "confirmed": [
                {"values": list(p.values), "fluid": p.fluid, "engine": p.mean}
                for p in self.points
                if p.engine
            ],
        }


def most_goodput(
    knobs: Sequence[str | Knob],
    operation: Operation,
    thresholds: Mapping[str, float],
    *,
    brackets: Sequence[tuple[float, float] | None] = (None, None),
    steps: int = STEPS,
    confirmed: int = CONFIRMED,
    replications: int = REPLICATIONS,
    requests: int = RUN_LENGTH,
    seed: int = 42,
    told: Told | None = None,
) -> GoodputSearch:
    """Search two knobs for the most requests per time that meet every threshold.

    The fluid model takes the whole grid; the engine takes the fluid's best points, and then the
    neighbours of the best it has found until none is better: a hill climb from a good start, on
    common draws. It finds the best of the grid where goodput has one peak there.

    Parameters
    ----------
    knobs
        Two of them.
    operation
        Workload and instance.
    thresholds
        Largest latency of a good request [time], by name.
    brackets
        Where to look; each knob's own by default.
    steps
        Values of each knob.
    confirmed
        Points that the engine takes first.
    replications, requests
        Of the engine's runs.

    Raises
    ------
    ConfigError
        For an option that is not allowed, or a workload without a steady state.
    """
    chosen = [knob_named(k) if isinstance(k, str) else k for k in knobs]
    if len(chosen) != 2 or chosen[0].name == chosen[1].name:
        raise ConfigError("KNOB", [k.name for k in chosen], "two different knobs")
    if not thresholds:
        raise ConfigError("goodput", thresholds, "a threshold on one latency at least")
    if replications < 2 or steps < 2 or confirmed < 1:
        raise ConfigError("replications", replications, "a whole number >= 2")
    operation.check_steady()
    first, second = chosen
    axes = [
        _axis(knob, check_bracket(knob, operation, bracket), steps)
        for knob, bracket in zip(chosen, brackets, strict=True)
    ]

    def turned(i: int, j: int) -> Operation:
        return second.turned(first.turned(operation, axes[0][i]), axes[1][j])

    grid = [(i, j) for i in range(len(axes[0])) for j in range(len(axes[1]))]
    fluid = {at: predicted_goodput(turned(*at), thresholds) for at in grid}
    engine: dict[tuple[int, int], tuple[float, ...]] = {}

    def confirm(at: tuple[int, int]) -> None:
        if at not in engine:
            if told is not None:
                told(f"{first.name} {axes[0][at[0]]:.6g}, {second.name} {axes[1][at[1]]:.6g}")
            engine[at] = tuple(
                measured_goodput(turned(*at), thresholds, requests, r, seed)
                for r in range(replications)
            )

    # Where the fluid has no answer it is no reason not to look: such points come last.
    for at in sorted(grid, key=lambda at: -(fluid[at] or 0.0))[:confirmed]:
        confirm(at)
    while True:
        best = max(engine, key=lambda at: np.mean(engine[at]))
        near = [(best[0] + i, best[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        new = [at for at in near if at in fluid and at not in engine]
        if not new:
            break
        for at in new:
            confirm(at)
    ranked = sorted(engine, key=lambda at: -np.mean(engine[at]))
    points = [
        GoodputPoint((axes[0][at[0]], axes[1][at[1]]), fluid[at], engine.get(at, ()))
        for at in (*ranked, *(at for at in grid if at not in engine))
    ]
    lead = _lead(engine[ranked[0]], engine[ranked[1]]) if len(ranked) > 1 else None
    return GoodputSearch(
        (first, second), dict(thresholds), tuple(points), len(grid),
        len(engine) * replications, lead,
    )  # fmt: skip


def _axis(knob: Knob, bracket: tuple[float, float], steps: int) -> list[float]:
    spaced = np.geomspace if knob.spacing == "log" else np.linspace
    inner = [knob.rounded(x) for x in spaced(*bracket, steps)[1:-1]]
    return sorted({bracket[0], *inner, bracket[1]})


def _lead(best: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import t

    gaps = np.subtract(best, second)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, gaps.size - 1) * gaps.std(ddof=1))
    half /= math.sqrt(gaps.size)
    return float(gaps.mean()) - half, float(gaps.mean()) + half


def predicted_goodput(operation: Operation, thresholds: Mapping[str, float]) -> float | None:
    """Return the fluid model's goodput [requests/time]: 0 beyond capacity, None without answer."""
    from ode import stationary

    try:
        if load_of(operation) >= 1:
            return 0.0
        found = stationary(
            operation.workload.mix, operation.instance, operation.mean_rate, approximate=True
        )
    except SolveError as error:
        return 0.0 if error.status == "overload" else None
    except UnsupportedError:
        return None
    return operation.mean_rate * _share_good(found.samples, thresholds)


def measured_goodput(
    operation: Operation,
    thresholds: Mapping[str, float],
    requests: int,
    replication: int,
    seed: int,
) -> float:
    """Return the engine's goodput [requests/time] after the warm-up; 0 where it is swamped."""
    child = np.random.SeedSequence(seed, spawn_key=(replication,))
    table = operation.workload.sample(child, num_requests=requests)
    engine = discrete.engine_for(
        table, operation.instance, seed=seed + replication, record_batches=False
    )
    engine.advance(until=float(table.arrival_time[-1]))
    if requests - engine.progress.completed > HOPELESS * requests:
        return 0.0
    engine.advance()
    samples = engine.run().samples(int(WARM_UP * requests))
    return operation.mean_rate * _share_good(samples, thresholds)


def _share_good(samples: LatencySamples, thresholds: Mapping[str, float]) -> float:
    met = np.ones(samples.weight.size, bool)
    for name, threshold in thresholds.items():
        met &= ~(getattr(samples, name) > threshold)
    return float(samples.weight[met].sum() / samples.weight.sum())
