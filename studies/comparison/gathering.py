"""Replications gathered as they come: mean, spread and bands on a grid, pooled metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import (
    LATENCIES,
    Distribution,
    RequestTable,
    ServingMetrics,
    Trajectory,
    merged_totals,
)
from studies.comparison.noise import IN_SYSTEM, OF_LATENCIES, standard_errors, value_of
from studies.comparison.replicate import First, Replicate, Sampling
from studies.comparison.settings import BAND, FIRST_LOOK, MOST_FOR_BANDS, Replications, Told
from studies.question import Question


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Replications of one question.

    Parameters
    ----------
    question
        What was asked, up to the end of the grid.
    requests
        Requests of the first replication.
    run
        The first replication's run, whole.
    mean, sd, low, high
        Over replications, on the grid: mean, standard deviation (NaN for one replication) and
        the percentiles of :data:`BAND`.
    replications
        How many.
    metrics
        Latencies pooled over all requests of all replications; other numbers averaged over
        replications. None where replications were not run to the end.
    replication_means
        Mean of each latency in each replication, shape (R,) [time], by latency name.
    offered : shape (R, 2)
        Requests and token-iterations of work that each replication drew: what its noise is
        mostly made of, hence good control variates.
    seconds
        One replication in this process, warm, without files.
    noise
        Relative standard error of each metric whose errors are known (:data:`values`), NaN where
        replications do not tell it.
    """

    question: Question
    requests: RequestTable
    run: Any
    mean: Trajectory
    sd: Trajectory
    low: Trajectory
    high: Trajectory
    replications: int
    metrics: ServingMetrics | None
    replication_means: Mapping[str, NDArray[np.float64]]
    offered: NDArray[np.float64]
    seconds: float
    noise: Mapping[str, float]

    @property
    def grid(self) -> NDArray[np.float64]:
        """Times at which everything is sampled, shape (G,)."""
        return self.mean.time

    @property
    def horizon(self) -> float:
        """End of the grid [time]."""
        return float(self.grid[-1])

    @property
    def horizon_is(self) -> str:
        """What the end of the grid is, in words."""
        if self.requests.horizon <= 0:
            return "last completion of the first replication (all requests arrive at time 0)"
        return "last arrival" if self.horizon == self.requests.horizon else "as asked for"

    @property
    def values(self) -> dict[str, float]:
        """The metrics whose errors are known, by name [time, or requests]; those there are."""
        out = {}
        if self.metrics is not None:
            out = {name: value_of(name, self.metrics) for name in OF_LATENCIES}
        if "in_system" in self.mean.outputs:
            out[IN_SYSTEM] = over_time(self.mean.outputs["in_system"])
        return out

    def standard_error(self, name: str) -> NDArray[np.float64]:
        """Return the standard error of the replication mean of an output, shape (G,)."""
        return self.sd.outputs[name] / np.sqrt(self.replications)


def over_time(values: NDArray[np.float64]) -> float:
    """Return the mean over a uniform grid of what is linear between its times, shape (G,)."""
    return float((values.sum() - 0.5 * (values[0] + values[-1])) / (values.size - 1))


Later = Callable[[int, int], Iterable[Replicate]]
"""From the numbers of the first replication and of the one after the last to their results."""


def gathered(
    sampling: Sampling, first: First, later: Later, settings: Replications, told: Told | None
) -> Ensemble:
    """Return the ensemble of a first replication and as many later ones as are wanted.

    Parameters
    ----------
    sampling
        What every replication was reduced to.
    first, later
        The first replication, and what yields others by their numbers.
    settings
        How many.
    told
        Called with the replications done and to do.
    """
    most, wanted = settings.count, settings.wanted
    parts = _Gathering(sampling, keep=min(most, MOST_FOR_BANDS))
    parts.add(first.replicate)
    target = most if wanted is None else min(most, FIRST_LOOK)
    while parts.count < target:
        for each in later(parts.count, target):
            parts.add(each)
            if told is not None:
                told("replication", parts.count, most)
        if wanted is not None:
            # A little more than it says, the spread being an estimate; never four times as many.
            more = min(1.05 * wanted(parts.mean, parts.sd), 4 * parts.count)
            target = min(most, max(target, int(more)))
    return parts.ensemble(first)


class _Gathering:
    """Running mean and variance (Welford) over replications, added in order."""

    def __init__(self, sampling: Sampling, keep: int) -> None:
        shape = (len(sampling.outputs), sampling.grid.size)
        self.sampling = sampling
        self.count = 0
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._kept = np.empty((keep, *shape), np.float32)
        self._replicates: list[Replicate] = []
        self._offered: list[tuple[float, float]] = []
        self._in_system: list[float] = []

    @property
    def sd(self) -> NDArray[np.float64]:
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(self._squares / (self.count - 1))

    def add(self, one: Replicate) -> None:
        self.count += 1
        delta = one.values - self.mean
        self.mean = self.mean + delta / self.count
        self._squares += delta * (one.values - self.mean)
        if self.count <= len(self._kept):
            self._kept[self.count - 1] = one.values
        self._offered.append(one.offered)
        if "in_system" in self.sampling.outputs:
            row = one.values[self.sampling.outputs.index("in_system")]
            self._in_system.append(over_time(row))
        if one.totals:
            self._replicates.append(one)

    def ensemble(self, first: First) -> Ensemble:
        kept = self._kept[: self.count]
        low, high = np.percentile(kept, BAND, axis=0)
        metrics = self._metrics()
        return Ensemble(
            question=self.sampling.question,
            requests=first.run.table,
            run=first.run,
            mean=self._trajectory(self.mean),
            sd=self._trajectory(self.sd),
            low=self._trajectory(low),
            high=self._trajectory(high),
            replications=self.count,
            metrics=metrics,
            replication_means=self._means(),
            offered=np.array(self._offered),
            seconds=first.seconds,
            noise=standard_errors(self._replicates, metrics, self._in_system),
        )

    def _trajectory(self, values: NDArray) -> Trajectory:
        rows = zip(self.sampling.outputs, values.astype(float), strict=True)
        return Trajectory(self.sampling.grid, dict(rows))

    def _metrics(self) -> ServingMetrics | None:
        """Return latencies pooled over requests, and the mean over replications of the rest."""
        if not self._replicates:
            return None
        latencies = {}
        for name in LATENCIES:
            parts = [each.latencies[name] for each in self._replicates]
            values, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
            latencies[name] = Distribution.of(values, weight)
        totals = merged_totals([each.totals for each in self._replicates])
        goodput = [each.goodput for each in self._replicates if each.goodput is not None]
        mean = float(np.mean(goodput)) if goodput else None
        return ServingMetrics(latencies, mean, totals)

    def _means(self) -> dict[str, NDArray[np.float64]]:
        out = {}
        for name in LATENCIES if self._replicates else ():
            pairs = [each.latencies[name] for each in self._replicates]
            out[name] = np.array([_mean(values, weight) for values, weight in pairs])
        return out


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    total = weight.sum()
    return float(np.sum(values * weight) / total) if total > 0 else float("nan")
