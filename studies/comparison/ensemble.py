"""Replications of the discrete engine: mean, spread and bands on a grid, pooled metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import (
    LATENCIES,
    OUTPUTS,
    ConfigError,
    Distribution,
    RequestTable,
    ServingMetrics,
    Trajectory,
    merged_totals,
)
from studies.comparison.replicate import Replicate, Sampling, reduced, replicates
from studies.pool import default_workers
from studies.question import Question

GRID_POINTS = 1000
"""Points of the grid on which trajectories are compared."""

BAND = (5.0, 95.0)
"""Percentiles over replications between which the bands lie."""

WORTH_A_POOL = 1.5
"""Expected time of all replications [s] above which worker processes are started by default."""

MOST_FOR_BANDS = 512
"""Replications that are kept whole for the bands; with more, the first so many."""

FIRST_LOOK = 16
"""Replications before :attr:`Replications.wanted` is asked for the first time."""

Wanted = Callable[[NDArray[np.float64], NDArray[np.float64]], float]
"""From mean and standard deviation so far, shape (O, G) each, to the replications it takes."""

Told = Callable[[str, int, int], None]
"""Called with what is under way, and how much of it is done and to do."""


@dataclass(frozen=True, slots=True)
class Replications:
    """How many replications, what is kept of them, and where they run.

    Parameters
    ----------
    count
        How many, or the most where ``wanted`` is given.
    workers
        Processes; by default as many as there are processors where it pays, else none. Results do
        not depend on it.
    outputs
        Names of the outputs to sample.
    points
        Points of the uniform grid on [0, horizon].
    wanted
        Asked after the first few, and then whenever there are as many as it said.

    Raises
    ------
    ConfigError
        If a number is not a whole number >= 1.
    """

    count: int = 32
    workers: int | None = None
    outputs: tuple[str, ...] = tuple(OUTPUTS)
    points: int = GRID_POINTS
    wanted: Wanted | None = None

    def __post_init__(self) -> None:
        for name, value in (("replications", self.count), ("workers", self.workers)):
            if value is not None and (value != int(value) or value < 1):
                raise ConfigError(name, value, "a whole number >= 1")


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Replications of one question.

    Parameters
    ----------
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
    """

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

    def standard_error(self, name: str) -> NDArray[np.float64]:
        """Return the standard error of the replication mean of an output, shape (G,)."""
        return self.sd.outputs[name] / np.sqrt(self.replications)


def run_ensemble(
    question: Question,
    replications: Replications | None = None,
    *,
    drain: bool = True,
    goodput: Mapping[str, float] | None = None,
    told: Told | None = None,
) -> Ensemble:
    """Run replications of the discrete engine.

    Parameters
    ----------
    question
        With ``num_requests``, the last arrival of the first replication is the horizon of all. So
        is the last arrival of a file, or its last completion where all arrive at time 0.
    replications
        How many, and what is kept of them; 32 by default.
    drain
        Run replications to the end, for their latencies; otherwise to the horizon.
    goodput
        Thresholds by latency name [time].
    told
        Called with the replications done and to do.

    Raises
    ------
    ConfigError, WorkloadError
        For options that are not allowed, or requests that cannot be drawn or run.
    """
    replications = Replications() if replications is None else replications
    first = question.requests
    grid = np.linspace(0.0, _end(question), replications.points)
    sampling = Sampling(question.until(grid[-1]), grid, replications.outputs, drain, goodput)
    run, seconds = _timed(lambda: sampling.run(first, 0))
    most, workers = replications.count, replications.workers
    if workers is None:
        workers = default_workers() if seconds * most > WORTH_A_POOL else 1
    gathered = _Gathering(sampling, keep=min(most, MOST_FOR_BANDS))
    gathered.add(reduced(run, sampling))
    wanted = replications.wanted
    target = most if wanted is None else min(most, FIRST_LOOK)
    while gathered.count < target:
        for each in replicates(sampling, gathered.count, target, workers):
            gathered.add(each)
            if told is not None:
                told("replication", gathered.count, most)
        if wanted is not None:
            # A little more than it says, the spread being an estimate; never four times as many.
            more = min(1.05 * wanted(gathered.mean, gathered.sd), 4 * gathered.count)
            target = min(most, max(target, int(more)))
    return gathered.ensemble(first, run, seconds)


def _end(question: Question) -> float:
    """Return the end of arrivals [time], or the last completion where all arrive at time 0."""
    if question.end > 0:
        return question.end
    run = discrete.simulate(
        question.requests, question.instance, seed=question.seed, record_batches=False
    )
    end = run.duration
    if not 0 < end < float("inf"):
        raise ConfigError("horizon", end, "a finite time > 0")
    return end


def _timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """Return a job's result and its best warm time [s], without spending long on it."""
    began = time.perf_counter()
    result = job()
    spent, best = time.perf_counter() - began, float("inf")
    if spent > 20:  # compilation is not what took so long, and once more would be as long
        return result, spent
    for attempt in range(7):
        began = time.perf_counter()
        result = job()
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
        if attempt >= 1 and spent > 0.5:
            break
    return result, best


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
        if one.totals:
            self._replicates.append(one)

    def ensemble(self, first: RequestTable, run: Any, seconds: float) -> Ensemble:
        kept = self._kept[: self.count]
        low, high = np.percentile(kept, BAND, axis=0)
        return Ensemble(
            requests=first,
            run=run,
            mean=self._trajectory(self.mean),
            sd=self._trajectory(self.sd),
            low=self._trajectory(low),
            high=self._trajectory(high),
            replications=self.count,
            metrics=self._metrics(),
            replication_means=self._means(),
            offered=np.array(self._offered),
            seconds=seconds,
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
