"""What one server in equilibrium does, held against a measured run, stretch by stretch."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import Instance, RequestTable, SolveError, UnsupportedError
from studies.validation.fluid import found_share
from studies.validation.prediction import EMPTY, Prediction
from studies.validation.replay import dealt
from studies.validation.requests import Replayed

ENOUGH = 500
"""Requests of a stretch at least, so that its rate is known to some 4 %."""

MOST_STRETCHES = 12
"""Stretches, alike in time, into which a run is cut at most."""

MOST_DISPERSION = 20.0
"""Squared variation of the gaps at most; a pause between two stretches is no burst."""


def by_one_node(
    requests: Replayed, instance: Instance, replicas: int, grid: NDArray[np.float64]
) -> Prediction:
    """Return the latencies of one replica in equilibrium at the rate of each stretch of the run.

    Raises
    ------
    UnsupportedError
        If clients give up or wait for answers, or a stretch has no equilibrium.
    """
    if requests.max_concurrency is not None:
        raise UnsupportedError("no one-node model answers for a client that waits for answers")
    if requests.table.has_aborts:
        raise UnsupportedError("no one-node model answers for clients that give up")
    table = requests.table.take(dealt(requests.table, replicas)[0])
    node: Any = instance
    if getattr(node, "enable_prefix_caching", False):
        node = replace(node, prefix_hit_share=found_share(table, node.block_size))
    parts, running, waiting = [], np.zeros(grid.size), np.zeros(grid.size)
    last = 0.0
    for begin, end, rate, dispersion in stretches(table):
        found = _stationary(table, node, rate, dispersion, begin, end)
        share = found.weight / found.weight.sum()
        last = end + float(share @ found.e2el)
        inside = (grid >= begin) & (grid < end)
        delay = float(share @ found.queue_delay)
        waiting[inside] = replicas * rate * delay
        running[inside] = replicas * rate * (float(share @ found.e2el) - delay)
        parts.append((found, share * rate * (end - begin)))
    nobody = np.full(sum(weight.size for _, weight in parts), np.nan)
    joined = {name: np.concatenate([getattr(found, name) for found, _ in parts])
              for name in ("ttft", "e2el", "tpot")}  # fmt: skip
    return Prediction(
        **joined, gaps=EMPTY, gap_weight=EMPTY, arrival=nobody, finish=nobody, grid=grid,
        series={"running": running, "waiting": waiting},
        weight=np.concatenate([weight for _, weight in parts]),
        totals={"completed": float(len(requests.table)), "makespan": last},
    )  # fmt: skip


def stretches(table: RequestTable) -> list[tuple[float, float, float, float]]:
    """Return begin, end [s], arrival rate [requests/s] and dispersion of stretches of a run.

    The dispersion is the squared variation of the gaps between arrivals.
    """
    arrival = table.arrival_time
    number = max(1, min(MOST_STRETCHES, len(table) // ENOUGH))
    end = float(np.nextafter(arrival[-1], math.inf))
    edges = np.linspace(0.0, end, number + 1)
    found = []
    for begin, until in pairwise(edges.tolist()):
        inside = arrival[(arrival >= begin) & (arrival < until)]
        if inside.size < 3:
            continue
        gaps = np.diff(inside)
        varied = float(gaps.var() / max(gaps.mean(), 1e-300) ** 2)
        rate = inside.size / (until - begin)
        found.append((begin, until, rate, min(varied, MOST_DISPERSION)))
    if not found:
        raise UnsupportedError("a one-node model needs more than two arrivals to know their rate")
    return found


def _stationary(
    table: RequestTable, node: Any, rate: float, dispersion: float, begin: float, end: float
) -> Any:
    from ode import stationary

    try:
        found = stationary(table.mix(), node, rate, dispersion=dispersion, approximate=True)
    except SolveError as error:
        raise UnsupportedError(
            f"the one-node model has no equilibrium from {begin:.4g} to {end:.4g} s, at "
            f"{rate:.4g} requests/s: {error.reason}"
        ) from error
    return found.samples
