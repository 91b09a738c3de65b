"""How well one node is predicted: latencies of the discrete engine beside a fluid method.

The protocol: an empty node, arrivals over [0, horizon), everybody counted until all have
finished; latencies pooled over the requests of all replications. Standard errors come from groups
of replications, with the work and the number of requests that each group drew as control
variates for the means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import DecodeNode, RequestMix
from studies.accuracy import controlled_mean
from studies.question import Question

STATISTICS = ("mean", "p50", "p95", "p99")
LATENCIES = ("ttft", "e2el")
GOALS = {
    ("ttft", "mean"): 0.07,
    ("ttft", "p95"): 0.08,
    ("ttft", "p99"): 0.15,
    ("e2el", "mean"): 0.05,
    ("e2el", "p95"): 0.10,
    ("e2el", "p99"): 0.10,
}
"""Relative errors that are met when exceeded by no more than two standard errors; none for p50."""

GROUPS = 40


@dataclass(frozen=True, slots=True)
class Cell:
    """One statistic of one latency of one node.

    Parameters
    ----------
    workload, load
        What arrives, and over capacity.
    latency, statistic
        Of :data:`LATENCIES` and :data:`STATISTICS`.
    engine, error : [time]
        Discrete engine, pooled over replications, and its standard error.
    predicted : [time]
        The fluid method.
    replications
        How many runs.
    """

    workload: str
    load: float
    latency: str
    statistic: str
    engine: float
    error: float
    predicted: float
    replications: int

    @property
    def deviation(self) -> float:
        """Predicted over engine, minus 1."""
        return self.predicted / self.engine - 1

    @property
    def standard_error(self) -> float:
        """Of the engine's value, relative."""
        return self.error / self.engine

    @property
    def met(self) -> bool | None:
        """Whether the deviation is within the goal and two standard errors; None without one."""
        goal = GOALS.get((self.latency, self.statistic))
        return None if goal is None else abs(self.deviation) <= goal + 2 * self.standard_error


def one_node_cells(
    name: str,
    question: Question,
    loads: Sequence[float],
    *,
    method: str = "node_work",
    error: float = 0.02,
    fewest: int = 800,
    most: int = 80_000,
    progress: Callable[[str], None] | None = None,
) -> list[Cell]:
    """Return every statistic of every latency at each load.

    Parameters
    ----------
    name, question
        What is compared: arrivals in [0, horizon) on an empty node. The loads set the rate.
    loads
        Arrival rates over the capacity lambda_M.
    method
        Of :data:`ode.METHODS`.
    error
        Replications go on until every statistic's relative standard error is at most this.
    fewest, most
        Replications at least and at most.
    """
    from ode import solve

    cells = []
    for load in loads:
        asked = question.at_load(load)
        predicted = solve(asked.profile, asked.mix, asked.instance, method=method)
        of = predicted.metrics().latencies
        runs = _Runs(asked)
        target = fewest
        while True:
            runs.extend(target)
            values, errors = runs.statistics()
            worst = float((errors / values).max())
            if progress is not None:
                progress(f"{name}, load {load:g}: {target} runs, standard error {worst:.1%}")
            if worst <= error or target >= most:
                break
            target = int(min(most, max(1.5, 1.1 * (worst / error) ** 2) * target))
        for i, latency in enumerate(LATENCIES):
            found = of[latency]
            guess = [found.mean, *(found.percentiles[int(s[1:])] for s in STATISTICS[1:])]
            for j, statistic in enumerate(STATISTICS):
                cells.append(
                    Cell(
                        name,
                        load,
                        latency,
                        statistic,
                        float(values[i, j]),
                        float(errors[i, j]),
                        float(guess[j]),
                        target,
                    )
                )
    return cells


class _Runs:
    """Replications of the engine, kept as pooled latencies by group."""

    def __init__(self, question: Question) -> None:
        self.question, self.count = question, 0
        self.latencies: tuple[list[list[NDArray[np.float64]]], ...] = tuple(
            [[] for _ in range(GROUPS)] for _ in LATENCIES
        )
        self.offered = np.zeros((GROUPS, 2))
        self.runs = np.zeros(GROUPS)

    def extend(self, target: int) -> None:
        """Run until there are ``target`` replications, dealt to the groups in turn."""
        while self.count < target:
            group = self.count % GROUPS
            requests = self.question.replication(self.count)
            self.count += 1
            self.runs[group] += 1
            if requests is None:  # nobody arrives
                continue
            run = discrete.simulate(requests, self.question.instance, record_batches=False)
            samples = run.samples()
            for pooled, latency in zip(self.latencies, LATENCIES, strict=True):
                pooled[group].append(getattr(samples, latency).astype(np.float32))
            p, d = requests.prefill_length.astype(float), requests.decode_length.astype(float)
            self.offered[group] += len(requests), float(np.sum(p * d + d * (d + 1) / 2))

    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return values and standard errors, shape (latencies, statistics) [time]."""
        values, errors = np.zeros((2, 4)), np.zeros((2, 4))
        expected = self.question.profile.total * np.array([1.0, self.question.mix.work])
        for i, pooled in enumerate(self.latencies):
            groups = [np.concatenate(part) for part in pooled]
            whole = np.concatenate(groups)
            values[i, 1:] = np.percentile(whole, (50, 95, 99))
            each = np.array([np.percentile(part, (50, 95, 99)) for part in groups])
            errors[i, 1:] = each.std(axis=0, ddof=1) / np.sqrt(GROUPS)
            total = np.array([part.sum(dtype=float) for part in groups]) / self.runs
            mean, error = controlled_mean(total, self.offered / self.runs[:, None], expected)
            values[i, 0], errors[i, 0] = mean / expected[0], error / expected[0]
        return values, errors


def node_sized_for(mix: RequestMix, requests: float = 40.0) -> DecodeNode:
    """Return a node whose memory holds ``requests`` typical running requests, and any single one.

    A saturated batch takes ten times as long as one of a single request or nearly so: times are
    in units of that fixed time, as in the default node.
    """
    from serving import BatchTimeLaw

    largest = float((mix.prefill + mix.decode).max())
    memory = int(max(requests * mix.work / mix.mean_decode, 1.2 * largest))
    return DecodeNode(M_total=memory, B=None, batch_time=BatchTimeLaw.per_token(1.0, 10.0 / memory))


def table_of(cells: Sequence[Cell]) -> str:
    """Return cells as a Markdown table, the worst first within each latency."""

    def rank(cell: Cell) -> float:
        return -abs(cell.deviation)

    rows = [
        "| workload | load | latency | engine | standard error | predicted | error | goal met |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for cell in sorted(cells, key=rank):
        met = {None: "-", True: "yes", False: "**no**"}[cell.met]
        rows.append(
            f"| {cell.workload} | {cell.load:g} | {cell.latency.upper()} {cell.statistic} "
            f"| {cell.engine:.4g} | {cell.standard_error:.1%} | {cell.predicted:.4g} "
            f"| {cell.deviation:+.1%} | {met} |"
        )
    return "\n".join(rows)


def to_json(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return cells as rows of plain values."""
    names = ("workload", "load", "latency", "statistic", "engine", "predicted", "replications")
    return [
        {name: getattr(cell, name) for name in names}
        | {"standard_error": cell.standard_error, "error": cell.deviation, "met": cell.met}
        for cell in cells
    ]
