"""How well replications know the engine's own values: standard errors of means and percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving import Distribution, ServingMetrics

if TYPE_CHECKING:
    from studies.comparison.replicate import Replicate

MOST_GROUPS = 8
"""Groups of replications from whose differences the errors of percentiles come."""

OF_LATENCIES = {
    "mean_ttft": ("ttft", None), "mean_e2el": ("e2el", None), "p50_ttft": ("ttft", 50),
    "p99_ttft": ("ttft", 99), "p99_e2el": ("e2el", 99),
}  # fmt: skip
"""Latency and percentile, None for the mean, of each metric whose errors are known."""

IN_SYSTEM = "mean_in_system"
"""The metric that is a mean over time, up to the end of the arrivals [requests]."""


def value_of(name: str, metrics: ServingMetrics) -> float:
    """Return a metric of :data:`OF_LATENCIES` [time]."""
    latency, percentile = OF_LATENCIES[name]
    of = metrics.latencies[latency]
    return of.mean if percentile is None else of.percentiles[percentile]


def standard_errors(
    replicates: Sequence[Replicate], pooled: ServingMetrics | None, in_system: Sequence[float]
) -> dict[str, float]:
    """Return the relative standard error of every metric; NaN where nothing tells it.

    Parameters
    ----------
    replicates
        Replications with their latencies.
    pooled
        Metrics over the requests of all of them; None where there are no latencies.
    in_system
        Mean over time of each replication [requests].
    """
    errors = dict.fromkeys((*OF_LATENCIES, IN_SYSTEM), math.nan)
    inside = np.asarray(in_system, float)
    if inside.size > 1 and inside.mean() > 0:
        errors[IN_SYSTEM] = float(inside.std(ddof=1) / math.sqrt(inside.size) / inside.mean())
    if pooled is None or (count := groups_of(len(replicates))) < 2:
        return errors
    groups = [each for i in range(count) if (each := _Group(replicates[i::count])).requests]
    if len(groups) < 2:
        return errors
    whole = np.array([value_of(name, pooled) for name in OF_LATENCIES])
    is_mean = np.array([percentile is None for _, percentile in OF_LATENCIES.values()])
    expected = sum(each.requests for each in groups) / len(replicates)
    # a mean over all requests is a ratio of sums: its error is that of the sum less the count's
    shares = [each.requests / (each.runs * expected) for each in groups]
    rows = [
        np.where(is_mean, whole + (each.values() - whole) * share, each.values())
        for each, share in zip(groups, shares, strict=True)
    ]
    spread = np.std(rows, axis=0, ddof=1) / math.sqrt(len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(whole > 0, spread / whole, np.nan)
    return errors | dict(zip(OF_LATENCIES, found.tolist(), strict=True))


def groups_of(replications: int) -> int:
    """Return how many groups the errors of so many replications come from."""
    return min(replications, MOST_GROUPS)


class _Group:
    """Some replications, read as one."""

    def __init__(self, replicates: Sequence[Replicate]) -> None:
        self.runs = len(replicates)
        self._parts = {name: _joined(replicates, name) for name in ("ttft", "e2el")}
        self.requests = float(self._parts["e2el"][1].sum())

    def values(self) -> NDArray[np.float64]:
        """Return every metric of :data:`OF_LATENCIES` [time]."""
        of = {name: Distribution.of(*parts) for name, parts in self._parts.items()}
        return np.array(
            [
                of[name].mean if at is None else of[name].percentiles[at]
                for name, at in OF_LATENCIES.values()
            ]
        )


def _joined(
    replicates: Sequence[Replicate], latency: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values and weights of a latency in all of some replications."""
    pairs = [each.latencies[latency] for each in replicates]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([w for _, w in pairs])
