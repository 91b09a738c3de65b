"""Where the fluid model is within 5 % of the engine, and whether one fitted number helps elsewhere.

A condition is a load, a burstiness, a mode, lengths and a size n. Its row says how far each fluid
method is from the mean of replications, and how well that mean is known. A fitted capacity counts
only if it lowers the error on conditions that it was not fitted to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving import MODES, DecodeNode, ServingMetrics, SolveError
from studies.comparison import Replications, run_ensemble
from studies.question import Question
from workload import describe

WITHIN = 0.05
QUANTITIES = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
HORIZON = 3000.0
NO_EVICTION = "none"
"""A node whose batch budget binds long before its memory: what it evicts does not matter."""

MEMORY = 2000
"""Tokens per unit of size where memory binds: as many as the budget elsewhere."""

GRID: Mapping[str, Sequence[Any]] = {
    "load": (0.5, 0.8, 0.95, 1.1),
    "burstiness": (0.5, 1.0, 4.0),
    "mode": (NO_EVICTION, *MODES),
    "lengths": ("normal", "heavy"),
    "n": (1, 10, 100),
}
REQUESTS_WANTED = 150_000
"""Of all replications of a condition: their mean is then known to a per cent or so."""

CAPACITIES = tuple(np.round(np.arange(0.80, 1.081, 0.02), 2).tolist())
"""Factors on the tokens of a full batch among which an effective capacity is sought."""


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One combination of what makes a fluid model easy or hard.

    Parameters
    ----------
    load
        Arrival rate over capacity.
    burstiness
        Gamma shape of the gaps: 1 Poisson, below 1 burstier.
    mode
        What happens to requests that memory has no room for, without a batch budget; or
        :data:`NO_EVICTION`, with the default budget.
    lengths
        Scenario of the generator whose lengths are drawn.
    n
        Size.
    """

    load: float
    burstiness: float
    mode: str
    lengths: str
    n: int

    @property
    def instance(self) -> DecodeNode:
        """The default node at size n, with its budget or without."""
        if self.mode == NO_EVICTION:
            return DecodeNode().scaled(self.n)
        return DecodeNode(mode=self.mode, M_total=MEMORY, B=None).scaled(self.n)

    def question(self, horizon: float = HORIZON, seed: int = 42) -> Question:
        """Return what is asked: a constant rate at this load, up to ``horizon`` [time]."""
        described = describe(self.lengths, burstiness=self.burstiness, rate_shape="constant")
        return Question(described, self.instance, horizon=horizon, seed=seed).at_load(self.load)


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The row of a condition.

    Parameters
    ----------
    condition
        Which.
    discrete
        Each of :data:`QUANTITIES` [time] over all replications.
    standard_error
        Relative, of the means, over replications.
    fluid
        The same quantities by method; a method that failed has none.
    """

    condition: Condition
    discrete: Mapping[str, float]
    standard_error: Mapping[str, float]
    fluid: Mapping[str, Mapping[str, float]]

    def error(self, method: str, quantity: str) -> float:
        """Return fluid over discrete, less 1; NaN where the method failed."""
        value = self.fluid.get(method, {}).get(quantity, math.nan)
        return value / self.discrete[quantity] - 1

    def to_json(self) -> dict[str, Any]:
        """Return the row."""
        s = self.condition
        return {
            "load": s.load,
            "burstiness": s.burstiness,
            "mode": s.mode,
            "lengths": s.lengths,
            "n": s.n,
            "discrete": dict(self.discrete),
            "standard_error": dict(self.standard_error),
            "error": {
                method: {q: self.error(method, q) for q in QUANTITIES} for method in self.fluid
            },
        }


def conditions(grid: Mapping[str, Sequence[Any]] = GRID) -> Iterator[Condition]:
    """Yield every combination of a grid."""
    for values in itertools.product(*(grid[key] for key in GRID)):
        yield Condition(**dict(zip(GRID, values, strict=True)))


def score(
    condition: Condition,
    methods: Sequence[str] = ("lagrangian",),
    *,
    requests_wanted: int = REQUESTS_WANTED,
    horizon: float = HORIZON,
    seed: int = 42,
    workers: int | None = None,
) -> Score:
    """Return how far the fluid methods are from the engine under a condition."""
    question = condition.question(horizon, seed)
    runs = max(8, math.ceil(requests_wanted / question.profile.total))
    ensemble = run_ensemble(
        question, Replications(runs, workers=workers, outputs=("in_system",), points=2)
    )
    assert ensemble.metrics is not None
    error = {}
    for latency in ("ttft", "e2el"):
        means = ensemble.replication_means[latency]
        means = means[np.isfinite(means)]
        error[f"mean_{latency}"] = float(means.std(ddof=1) / math.sqrt(means.size) / means.mean())
    fluid = {}
    for method in methods:
        found = solved(question, method)
        if found is not None:
            fluid[method] = found
    return Score(condition, _quantities(ensemble.metrics), error, fluid)


def solved(question: Question, method: str) -> dict[str, float] | None:
    """Return what a method predicts of :data:`QUANTITIES`; None where it cannot."""
    from ode import solve

    try:
        flow = solve(question.profile, question.mix, question.instance, method=method)
    except SolveError:
        return None
    return _quantities(flow.metrics())


def _quantities(metrics: ServingMetrics) -> dict[str, float]:
    return {
        f"{name}_{latency}": of.mean if name == "mean" else of.percentiles[99]
        for latency, of in metrics.latencies.items()
        for name in ("mean", "p99")
        if f"{name}_{latency}" in QUANTITIES
    }


def summary(scores: Sequence[Score], method: str, by: str) -> list[dict[str, Any]]:
    """Return how many conditions are within 5 %, and the errors, by the values of a property."""
    rows = []
    for value in dict.fromkeys(getattr(each.condition, by) for each in scores):
        chosen = [each for each in scores if getattr(each.condition, by) == value]
        row: dict[str, Any] = {by: value, "conditions": len(chosen)}
        for quantity in QUANTITIES:
            errors = np.array([each.error(method, quantity) for each in chosen])
            known = errors[np.isfinite(errors)]
            row[quantity] = {
                "within": int((np.abs(known) <= WITHIN).sum()),
                "median_error": float(np.median(known)) if known.size else None,
                "largest": float(known[np.abs(known).argmax()]) if known.size else None,
            }
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class CapacityFit:
    """An effective capacity fitted to some conditions and judged on others.

    Parameters
    ----------
    factor
        On the tokens of a full batch, best on the conditions it was fitted to.
    before, after
        RMS log error of mean E2EL on held-out conditions, with the factor 1 and with ``factor``.
    before_fitted, after_fitted
        The same on the conditions it was fitted to.
    """

    factor: float
    before: float
    after: float
    before_fitted: float
    after_fitted: float

    @property
    def helps(self) -> bool:
        """Whether held-out conditions gain."""
        return self.after < self.before


def fit_capacity(
    scores: Sequence[Score],
    method: str,
    held_out: Callable[[Condition], bool],
    *,
    factors: Sequence[float] = CAPACITIES,
    quantity: str = "mean_e2el",
    horizon: float = HORIZON,
) -> CapacityFit:
    """Fit one factor on memory and budget, per-token times unchanged, and try it elsewhere."""

    def errors(chosen: Sequence[Score], factor: float) -> float:
        logs = []
        for each in chosen:
            question = each.condition.question(horizon)
            found = solved(question.on(with_capacity(question.instance, factor)), method)
            if found is not None:
                logs.append(math.log(found[quantity] / each.discrete[quantity]))
        return float(np.sqrt(np.mean(np.square(logs))))

    fitted = [each for each in scores if not held_out(each.condition)]
    others = [each for each in scores if held_out(each.condition)]
    found = {factor: errors(fitted, factor) for factor in factors}
    best = min(found, key=lambda factor: found[factor])
    return CapacityFit(
        best, errors(others, 1.0), errors(others, best), errors(fitted, 1.0), found[best]
    )


def with_capacity(instance: Any, factor: float) -> DecodeNode:
    """Return an instance whose memory and budget hold ``factor`` times the tokens."""
    budget = None if instance.B is None else round(factor * instance.B)
    return replace(instance, M_total=round(factor * instance.M_total), B=budget)
