"""Runs of one question over time, put together: latencies pooled, totals and outputs averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import (
    FluidServeError,
    LatencySamples,
    ServingMetrics,
    Trajectory,
    WorkloadError,
    merged_totals,
    totals_of_each,
)
from studies.engine_runs.clock import Clock
from studies.engine_runs.joined import Apart, can_be_joined, joined
from studies.engine_runs.noise import Group
from studies.question import Question

CUMULATIVE = ("completed", "evicted")
"""Outputs that go on counting from one run to the next."""

POINTS = 400
"""Times up to the horizon at which outputs are noted."""

MOST_TOGETHER = 100_000
"""Requests of one run of the engine, where replications follow each other in it."""


class Pool:
    """A growing number of runs, each a function of its number alone.

    Parameters
    ----------
    question
        With a horizon above 0.
    clock
        Stops a run that takes too long.
    """

    def __init__(self, question: Question, clock: Clock) -> None:
        self.count = 0
        self.requests = 0
        self._question, self._clock = question, clock
        self._grid = np.linspace(0.0, question.end, POINTS)
        self._is_joined = can_be_joined(question)
        self._samples: list[LatencySamples] = []
        self._totals: list[Mapping[str, float]] = []
        self._runs: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = []
        self._sum: dict[str, NDArray[np.float64]] = {}

    def add(self, count: int) -> None:
        """Run so many more replications.

        Raises
        ------
        OverBudgetError
            If they would take too long; those that ended count.
        FluidServeError
            If the engine does not get to an end at all.
        """
        last = self.count + count
        while self.count < last:
            together = last - self.count
            if self._is_joined:
                expected = max(self._question.profile.total, 1.0)
                together = min(together, max(1, int(MOST_TOGETHER / expected)))
                if self._join(together):
                    continue
            for _ in range(together):
                self._run_one()

    @property
    def _records_itl(self) -> bool:
        """Whether times between tokens are recorded: at first, where they are many already."""
        return not self._samples

    def _join(self, count: int) -> bool:
        """Run replications that follow each other in one run; False if they cannot."""
        try:
            apart = joined(
                self._question, self.count, count, self._grid,
                record_batches=self._records_itl, progress=self._clock.look,
            )  # fmt: skip
        except WorkloadError:  # not one request in any of them
            return False
        if apart is None:
            return False
        self._take(apart)
        return True

    def _run_one(self) -> None:
        """Run one replication by itself."""
        table = self._question.replication(self.count)
        if table is None:
            self._runs.append((np.empty(0), np.empty(0), 0.0))
            self.count += 1
            return
        run = discrete.simulate(
            table, self._question.instance, seed=self._question.seed + self.count,
            record_batches=self._records_itl, sample_times=self._grid, progress=self._clock.look,
        )  # fmt: skip
        if not run.finished:
            raise FluidServeError("the engine came to a stop before every request had an answer")
        self._take(Apart(run, np.array([0, len(table)]), np.zeros(1), self._grid))

    def _take(self, apart: Apart) -> None:
        """Take over runs that have ended."""
        run, rows, count = apart.run, apart.rows, apart.start.size
        until = self._question.end
        at = run.requests
        done = discrete.completed(at)
        begin = np.repeat(apart.start, np.diff(rows))
        arrival, end = at["arrival_time"] - begin, at["completion_time"] - begin
        ttft, e2el = at["first_token_time"] - at["arrival_time"], end - arrival
        stay = np.minimum(np.where(done, end, np.inf), until) - np.minimum(arrival, until)
        until_row = np.append(0.0, np.cumsum(stay))
        inside = np.diff(until_row[rows]) / until
        ends = []
        for k in range(count):
            part = slice(rows[k], rows[k + 1])
            kept = part if done[part].all() else rows[k] + np.flatnonzero(done[part])
            self._runs.append((ttft[kept], e2el[kept], float(inside[k])))
            ends.append(float(end[kept].max(initial=0.0)))
        totals = run.totals() if count == 1 else totals_of_each(run.totals(), ends, run.duration)
        self._totals += [totals] * count
        self._samples.append(run.samples())
        self._add_outputs(run, apart.times, count)
        self.count += count
        self.requests += len(arrival)

    def _add_outputs(self, run: discrete.Run, times: NDArray[np.float64], count: int) -> None:
        outputs = run.trajectory(times).outputs
        for name, values in outputs.items():
            rows = values.reshape(count, POINTS)
            if name in CUMULATIVE:
                rows = rows - rows[:, :1]
            self._sum[name] = self._sum.get(name, 0.0) + rows.sum(axis=0)

    def groups(self, count: int) -> Sequence[Group]:
        """Return the runs in so many groups, by turns."""
        groups = [Group() for _ in range(count)]
        for number, each in enumerate(self._runs):
            groups[number % count].add(*each)
        return groups

    @property
    def trajectory(self) -> Trajectory:
        """Mean of every output over the runs, up to the horizon."""
        outputs = {name: total / self.count for name, total in self._sum.items()}
        return Trajectory(self._grid, outputs)

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return latencies pooled over all requests of all runs, other numbers averaged over runs.

        Parameters
        ----------
        goodput
            Thresholds by latency name [time].
        """
        totals = merged_totals(self._totals)
        known = {name: value for name, value in totals.items() if math.isfinite(value)}
        found = ServingMetrics.summarise(pooled(self._samples), known, goodput)
        good = found.request_goodput
        return replace(found, request_goodput=None if good is None else good / self.count)


def pooled(samples: Sequence[LatencySamples]) -> LatencySamples:
    """Return the latencies of several runs as one sample."""
    names = ("queue_delay", "ttft", "tpot", "e2el", "weight", "itl", "itl_weight")
    return LatencySamples(
        *(np.concatenate([getattr(each, name) for each in samples]) for name in names)
    )
