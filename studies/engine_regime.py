"""The regime of a node or a server by the engine: what two starts lead to, as far as runs tell.

An endless queue shows what a full instance completes. An instance at a lower rate is healthy: every
queue drains. At a higher rate runs from an empty start tell the rest: if the number in the system
grows by what a full instance falls short, it is behind, and if it does not grow it is bistable.
Rates that runs cannot tell from an edge, by their own scatter, are undecided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import capacity, requests_that_fit, saturation
from serving import Instance, RequestMix
from studies.campaign.truth import best_rate, rates_of
from workload import Workload, replication_seed

STAYS, FROM = 60, 0.5
"""Length of a run in stays of a request in a full instance, and the part that is not counted."""

SURELY = 2.0
"""Standard errors by which a rate must differ from an edge."""

GROWS, STAYS_LEVEL = 0.6, 0.25
"""Parts of the shortfall by which the number in the system must grow to be behind, and must not to
have kept up."""

FALLS_SHORT = 0.01
"""Shortfall from which runs from an empty start can tell."""

MOST_REQUESTS = 40_000
"""Requests of a run at most: runs of large instances are shorter."""

OVERLOAD = 1.3
"""Load at which the throughput of a healthy instance is measured."""

SMALL_RUNS, MOST_RUNS = 800.0, 24
"""Requests that fit times the runs from an empty start, so that small instances are told as well,
and these runs at most."""

BEHIND, UNDECIDED = "behind", "undecided"


@dataclass(frozen=True, slots=True)
class EngineRegime:
    """What runs of the engine say of one arrival rate.

    Parameters
    ----------
    name
        ``healthy``, ``bistable``, ``behind`` or ``undecided``.
    throughput, error : [requests/time]
        Completions with a queue, and their relative standard error.
    grows
        Growth of the number in the system from an empty start, over the arrivals; None where it was
        not asked.
    """

    name: str
    throughput: float
    error: float
    grows: float | None = None


def full_throughput(
    mix: RequestMix, instance: Instance, *, runs: int = 4, seed: int = 1
) -> tuple[float, float]:
    """Return what an instance completes from an endless queue [requests/time], and its error.

    Requests start in step with each other; the first half of a run is not counted.
    """
    end = _end(mix, instance)
    full = saturation(mix, instance)
    count = int(1.6 * full.throughput * end + 2 * full.batch_size + 10)
    found: list[NDArray[np.float64]] = []
    for k in range(runs):
        table = Workload(mix, 1.0).sample(replication_seed(seed, k), num_requests=count)
        table = table.stretched(0.0)
        run = discrete.simulate(table, instance, until=end, record_batches=False)
        ended = run.requests["completion_time"]
        done = np.sort(ended[np.isfinite(ended)])
        last = min(end, float(done[-1]) if done.size == count else end)
        found.append(rates_of(table, np.nan_to_num(ended, nan=np.inf), mix, (FROM * last, last)))
    return best_rate(found)


def healthy_throughput(
    mix: RequestMix, instance: Instance, *, runs: int = 4, seed: int = 1
) -> tuple[float, float]:
    """Return what an instance completes under overload from an empty start, and its error.

    Evictions cost nothing, and requests come one by one, in no step with each other: that is what
    capacity means. The first half of a run is not counted.
    """
    instance = lossless(instance)
    end, rate = _end(mix, instance), OVERLOAD * capacity(mix, instance)
    found: list[NDArray[np.float64]] = []
    for k in range(runs):
        table = Workload(mix, rate).sample(replication_seed(seed, 2000 + k), horizon=end)
        run = discrete.simulate(table, instance, record_batches=False)
        ended = run.requests["completion_time"]
        found.append(rates_of(table, ended, mix, (FROM * end, end)))
    return best_rate(found)


def lossless(instance: Instance) -> Instance:
    """Return the instance whose evictions cost nothing, for what a healthy one can complete."""
    if getattr(instance, "mode", "") != "sacrifice":
        return instance
    node: Any = instance
    law = replace(node.batch_time, d_swap=0.0)
    return replace(node, mode="swapping", batch_time=law)


def regime_by_engine(
    mix: RequestMix, instance: Instance, rate: float, *, runs: int = 4, seed: int = 1
) -> EngineRegime:
    """Return the regime at an arrival rate [requests/time] by runs of the engine."""
    full, error = full_throughput(mix, instance, runs=runs, seed=seed)
    short = 1.0 - full / rate
    doubt = SURELY * error * full / rate
    if short < -doubt:
        return EngineRegime("healthy", full, error)
    if short < max(doubt, FALLS_SHORT):
        return EngineRegime(UNDECIDED, full, error)
    runs = max(runs, min(MOST_RUNS, int(SMALL_RUNS / requests_that_fit(mix, instance))))
    growth = [_growth(mix, instance, rate, replication_seed(seed, 1000 + k)) for k in range(runs)]
    mean, scatter = float(np.mean(growth)), float(np.std(growth, ddof=1)) / math.sqrt(runs)
    if mean - SURELY * scatter > GROWS * short:
        name = BEHIND
    elif mean + SURELY * scatter < STAYS_LEVEL * short:
        name = "bistable"
    else:
        name = UNDECIDED
    return EngineRegime(name, full, error, mean)


def _end(mix: RequestMix, instance: Instance) -> float:
    """Return how long a run lasts [time]."""
    full = saturation(mix, instance)
    decode = mix.decode.astype(float)
    stay = float(mix.probability @ decode**2) / mix.mean_decode * full.batch_time
    return min(STAYS * stay, MOST_REQUESTS / full.throughput)


def _growth(mix: RequestMix, instance: Instance, rate: float, seed: Any) -> float:
    """Return by how much the number in the system grows in the second half, over the arrivals."""
    end = _end(mix, instance)
    table = Workload(mix, rate).sample(seed, horizon=end)
    half = np.array([end / 2, end])
    run = discrete.simulate(table, instance, until=end, record_batches=False, sample_times=half)
    there = run.trajectory()("in_system", half)
    return float(there[1] - there[0]) / (rate * end / 2)
