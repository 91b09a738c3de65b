"""The engine with a full memory: starts from a queue, thresholds, and when chance fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import capacity, saturation
from ode import InitialState, solve
from serving import DecodeNode, RequestTable, Trajectory
from workload import Workload

THRESHOLDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True, slots=True)
class BacklogRun:
    """What a node completes over a window of time.

    Parameters
    ----------
    throughput : [requests/time]
        Completions in the window over its length.
    evictions_per_completion
        In the window.
    in_system : [requests]
        At the start and at the end of the window.
    """

    throughput: float
    evictions_per_completion: float
    in_system: tuple[float, float]


def with_backlog(
    workload: Workload, backlog: int, *, horizon: float, seed: int = 42
) -> RequestTable:
    """Return ``backlog`` requests at time 0, and those that arrive until ``horizon`` [time]."""
    root = np.random.SeedSequence(seed)
    later, first = root.spawn(2)
    table = workload.sample(later, horizon=horizon)
    if backlog < 1:
        return table
    queue = workload.sample(first, num_requests=backlog)
    columns = {
        name: np.concatenate([getattr(queue, name), getattr(table, name)])
        for name in RequestTable.__slots__
    }
    columns["arrival_time"][: len(queue)] = 0.0
    return RequestTable(**columns)


def run_from_backlog(
    workload: Workload,
    instance: DecodeNode,
    *,
    backlog: int,
    window: tuple[float, float],
    seed: int = 42,
) -> BacklogRun:
    """Run the engine from ``backlog`` waiting requests and count over ``window`` [time]."""
    requests = with_backlog(workload, backlog, horizon=window[1], seed=seed)
    run = discrete.simulate(
        requests, instance, until=window[1], record_batches=False, sample_times=window
    )
    return _counted(run.trajectory(), window)


def fluid_from_backlog(
    workload: Workload, instance: DecodeNode, *, backlog: int, window: tuple[float, float]
) -> BacklogRun:
    """Return what the iteration clock says about the same start and window."""
    solution = solve(
        workload.profile(window[1]), workload.mix, instance,
        initial=InitialState(waiting=backlog), drain=False,
    )  # fmt: skip
    return _counted(solution.trajectory, window)


def _counted(trajectory: Trajectory, window: tuple[float, float]) -> BacklogRun:
    done, evicted, present = (
        trajectory(name, window) for name in ("completed", "evicted", "in_system")
    )
    completions = float(done[1] - done[0])
    return BacklogRun(
        throughput=completions / (window[1] - window[0]),
        evictions_per_completion=float(evicted[1] - evicted[0]) / max(completions, 1e-300),
        in_system=(float(present[0]), float(present[1])),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """Engine throughput over the arrival rate, by where the node starts.

    Parameters
    ----------
    arrival_rate, from_empty, from_backlog : shape (K,) [requests/time]
        From empty up to the first eviction where there is one, and NaN from capacity on, where no
        node stays healthy.
    """

    arrival_rate: NDArray[np.float64]
    from_empty: NDArray[np.float64]
    from_backlog: NDArray[np.float64]


def branches(
    workload: Workload,
    instance: DecodeNode,
    arrival_rate: Sequence[float] | NDArray[np.float64],
    *,
    backlog: int = 3000,
    window: tuple[float, float] = (1000.0, 16_000.0),
    seed: int = 42,
) -> Branches:
    """Return what the engine completes per time from an empty node and from a backlog.

    From the backlog over ``window`` [time], if it lasts so long; a queue that drains meanwhile
    counts until it has. From empty over the same window, or up to the first eviction if that
    comes before its end.
    """
    rates = np.asarray(arrival_rate, float)
    found = np.empty((2, rates.size))
    grid = np.linspace(0.0, window[1], 4000)
    for k, rate in enumerate(rates):
        for start, queue in enumerate((0, backlog)):
            requests = with_backlog(
                workload.at_rate(float(rate)), queue, horizon=window[1], seed=seed + k
            )
            run = discrete.simulate(
                requests, instance, until=window[1], record_batches=False, sample_times=grid
            )
            trajectory = run.trajectory()
            time, evicted = trajectory.time, trajectory.outputs["evicted"]
            first, last = window[0], float(time[-1])
            if start == 0 and evicted[-1] > 0:
                last = float(time[np.argmax(evicted > 0)])
            if start == 1:
                empty = trajectory.outputs["waiting"] < 1
                empty[0] = False
                last = float(time[np.argmax(empty)]) if empty.any() else last
            first = min(first, 0.3 * last)
            found[start, k] = trajectory.rate("completed", first, last)
    found[0, rates >= capacity(workload.mix, instance)] = np.nan
    return Branches(rates, found[0], found[1])


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """One admission threshold kappa of :func:`threshold_table`.

    Parameters
    ----------
    threshold
        kappa.
    engine, fluid
        From the backlog.
    wait, wait_error : [time]
        Mean wait for the first admission from an empty start, and its standard error over runs.
    collapsed
        Share of those runs that evicted.
    """

    threshold: float
    engine: BacklogRun
    fluid: BacklogRun
    wait: float
    wait_error: float
    collapsed: float


def threshold_table(
    workload: Workload,
    instance: DecodeNode,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    backlog: int = 3000,
    window: tuple[float, float] = (1000.0, 3500.0),
    horizon: float = 20_000.0,
    runs: int = 16,
    seed: int = 42,
) -> list[ThresholdRow]:
    """Return what each admission threshold does to a backlogged and to an empty node.

    Parameters
    ----------
    backlog, window
        Of the backlogged start.
    horizon : [time]
        End of the runs from an empty start.
    runs
        How many of them, each a draw of its own, the same draws for every threshold.
    """
    rows = []
    for threshold in thresholds:
        node = replace(instance, admission_threshold=float(threshold))
        waits, evicts = np.empty(runs), np.empty(runs)
        for k in range(runs):
            run = discrete.simulate(
                workload.sample(np.random.SeedSequence(seed, spawn_key=(k,)), horizon=horizon),
                node, record_batches=False,
            )  # fmt: skip
            samples = run.samples()
            waits[k], evicts[k] = samples.queue_delay.mean(), run.metrics().evictions > 0
        rows.append(
            ThresholdRow(
                threshold=float(threshold),
                engine=run_from_backlog(workload, node, backlog=backlog, window=window, seed=seed),
                fluid=fluid_from_backlog(workload, node, backlog=backlog, window=window),
                wait=float(waits.mean()),
                wait_error=float(waits.std(ddof=1) / np.sqrt(runs)) if runs > 1 else 0.0,
                collapsed=float(evicts.mean()),
            )
        )
    return rows


def times_to_full(
    workload: Workload, instance: DecodeNode, *, runs: int, expected: float, seed: int = 42
) -> NDArray[np.float64]:
    """Return when the engine first had no room for the next request, once per run, shape (R,).

    Parameters
    ----------
    workload
        One prefill length, so that "the next request" has a size.
    expected : [time]
        A guess at the mean; runs go on four times as long until the memory has filled.
    """
    step = saturation(workload.mix, instance).batch_time / 4
    room = instance.M_total - workload.mix.prefill.max() - 1
    found = np.empty(runs)
    for k in range(runs):
        horizon = expected
        while True:
            grid = np.arange(0.0, horizon, step)
            requests = workload.sample(
                np.random.SeedSequence(seed, spawn_key=(k,)), horizon=horizon
            )
            run = discrete.simulate(
                requests, instance, until=horizon, record_batches=False, sample_times=grid
            )
            trajectory = run.trajectory()
            full = trajectory.outputs["memory"] + trajectory.outputs["running"] > room
            if full.any():
                found[k] = trajectory.time[np.argmax(full)]
                break
            horizon *= 4
    return found
