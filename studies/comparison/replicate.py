"""One replication of the discrete engine, reduced to what a comparison keeps.

This is all that a worker process imports: no solver, no symbols, no plots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import (
    LATENCIES,
    TOTALS,
    LatencySamples,
    RequestTable,
    ServingMetrics,
)
from studies.pool import worker_pool
from studies.question import Question
from studies.timing import WarmTurns

MOST_POINTS = 20_000
"""Latencies that a replication hands back one by one; more are condensed to so many."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """What every replication of a question is reduced to.

    Parameters
    ----------
    question
        Its horizon is the last time of the grid.
    grid : shape (G,) [time]
        Where trajectories are sampled.
    outputs
        Names of the outputs to keep.
    drain
        Run each replication to the end for its latencies; otherwise to the horizon.
    goodput
        Thresholds by latency name [time].
    """

    question: Question
    grid: NDArray[np.float64]
    outputs: tuple[str, ...]
    drain: bool = True
    goodput: Mapping[str, float] | None = None

    def run(self, requests: RequestTable, replication: int) -> discrete.Run:
        """Return the engine's run of ``requests``, sampled on the grid."""
        return discrete.simulate(
            requests,
            self.question.instance,
            seed=self.question.seed + replication,
            # A run ends at a boundary: one just after the horizon has the last sample in it.
            until=None if self.drain else float(np.nextafter(self.grid[-1], np.inf)),
            record_batches=self.drain,
            sample_times=self.grid,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Replicate:
    """What is kept of one replication.

    Parameters
    ----------
    values : shape (O, G)
        Each output on the grid.
    totals
        Single-number metrics by name; empty where the run was not to the end.
    latencies
        Values [time] and weights by latency name, condensed where there are many.
    goodput : [requests/time] or None
        Where thresholds were given.
    offered
        Requests, and token-iterations of work, that the replication drew.
    """

    values: NDArray[np.float64]
    totals: Mapping[str, float] = field(default_factory=dict)
    latencies: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(
        default_factory=dict
    )
    goodput: float | None = None
    offered: tuple[float, float] = (0.0, 0.0)


def reduced(run: discrete.Run, sampling: Sampling) -> Replicate:
    """Return what is kept of a run."""
    trajectory = run.trajectory(sampling.grid)
    values = np.stack([trajectory(name, sampling.grid) for name in sampling.outputs])
    offered = _offered(run.table)
    if not sampling.drain:
        return Replicate(values, offered=offered)
    samples: LatencySamples = run.samples()
    metrics: ServingMetrics = run.metrics(sampling.goodput)
    return Replicate(
        values,
        metrics.totals,
        {name: condensed(*samples.of(name)) for name in LATENCIES},
        metrics.request_goodput,
        offered,
    )


@dataclass(frozen=True, slots=True, eq=False)
class First:
    """The first replication, which is kept whole.

    Parameters
    ----------
    run
        What the engine recorded.
    replicate
        What is kept of it among the others.
    seconds
        How long it takes in this process, warm, without files.
    """

    run: discrete.Run
    replicate: Replicate
    seconds: float


def first_replicate(sampling: Sampling, requests: RequestTable) -> First:
    """Run the first replication and time it."""
    turns = WarmTurns()
    for _ in turns:
        run = sampling.run(requests, 0)
    return First(run, reduced(run, sampling), turns.seconds)


def replicate(sampling: Sampling, replication: int) -> Replicate:
    """Run one replication from its own seed and reduce it; one without requests is all zeros."""
    requests = sampling.question.replication(replication)
    if requests is None:
        values = np.zeros((len(sampling.outputs), sampling.grid.size))
        if not sampling.drain:
            return Replicate(values)
        nothing = (np.empty(0), np.empty(0))
        return Replicate(
            values,
            {name: float("nan") if each.where_known else 0.0 for name, each in TOTALS.items()},
            dict.fromkeys(LATENCIES, nothing),
            0.0 if sampling.goodput else None,
        )
    return reduced(sampling.run(requests, replication), sampling)


def replicates(sampling: Sampling, first: int, last: int, workers: int) -> Iterator[Replicate]:
    """Yield replications ``first`` to ``last - 1`` in order, each a function of its number alone.

    Parameters
    ----------
    workers
        Processes; 1 runs them here.
    """
    if workers == 1 or last - first < 2:
        yield from (replicate(sampling, replication) for replication in range(first, last))
        return
    # A few tasks per worker balance the load; one message per task keeps the overhead small.
    size = max(1, min(8, (last - first) // (4 * workers)))
    tasks = [range(r, min(r + size, last)) for r in range(first, last, size)]
    with worker_pool(_replicated, sampling, min(workers, len(tasks))) as submit:
        waiting: deque[Future[list[Replicate]]] = deque()
        for task in tasks:
            waiting.append(submit(task))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _replicated(sampling: Sampling, replications: range) -> list[Replicate]:
    return [replicate(sampling, replication) for replication in replications]


def condensed(
    values: NDArray[np.float64], weight: NDArray[np.float64], points: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most ``points`` weighted values with the same mean and nearly the same quantiles.

    Neighbours in rank are averaged, so that each point stands for 1/points of the distribution.
    """
    if values.size <= points:
        return values, weight
    order = np.argsort(values, kind="stable")
    values, weight = values[order], weight[order]
    first = np.linspace(0, values.size, points, endpoint=False).astype(np.int64)
    mass = np.add.reduceat(weight, first)
    total = np.add.reduceat(values * weight, first)
    kept = mass > 0
    return total[kept] / mass[kept], mass[kept]


def _offered(requests: RequestTable) -> tuple[float, float]:
    """Return the number of requests and their work, sum of p D + D (D + 1) / 2."""
    p, d = requests.prefill_length.astype(float), requests.decode_length.astype(float)
    return float(len(requests)), float(np.sum(p * d + d * (d + 1) / 2))
