"""The engine with a full memory: starts from a queue, thresholds, and when chance fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import saturation
from ode import InitialState, solve
from serving import RequestTable, Trajectory, UnsupportedError, WorkloadError, kind_of
from studies.question import Question

KNOB = "admission_threshold"
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


def with_backlog(question: Question, backlog: int) -> RequestTable:
    """Return ``backlog`` requests at time 0, and those that arrive until the horizon."""
    root = np.random.SeedSequence(question.seed)
    later, first = root.spawn(2)
    table = question.stream.sample(later, horizon=question.horizon)
    if backlog < 1:
        return table
    queue = question.stream.sample(first, num_requests=backlog)
    return queue.stretched(0.0).joined(table)


def run_from_backlog(
    question: Question, *, backlog: int, window: tuple[float, float]
) -> BacklogRun:
    """Run the engine from ``backlog`` waiting requests and count over ``window`` [time]."""
    requests = with_backlog(question.until(window[1]), backlog)
    run = discrete.simulate(
        requests,
        question.instance,
        until=window[1],
        record_batches=False,
        sample_times=window,
    )
    return _counted(run.trajectory(), window)


def fluid_from_backlog(
    question: Question, *, backlog: int, window: tuple[float, float]
) -> BacklogRun:
    """Return what the iteration clock says about the same start and window."""
    solution = solve(
        question.until(window[1]).profile, question.mix, question.instance,
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
    question: Question,
    arrival_rate: Sequence[float] | NDArray[np.float64],
    *,
    backlog: int = 3000,
    window: tuple[float, float] = (1000.0, 16_000.0),
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
            asked = replace(question.at_rate(float(rate)), seed=question.seed + k)
            requests = with_backlog(asked.until(window[1]), queue)
            run = discrete.simulate(
                requests, asked.instance, until=window[1], record_batches=False, sample_times=grid
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
    found[0, rates >= question.capacity] = np.nan
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
    question: Question,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    backlog: int = 3000,
    window: tuple[float, float] = (1000.0, 3500.0),
    runs: int = 16,
) -> list[ThresholdRow]:
    """Return what each admission threshold does to a backlogged and to an empty node.

    Parameters
    ----------
    question
        Its horizon is the end of the runs from an empty start.
    thresholds
        Values of kappa.
    backlog, window
        Of the backlogged start.
    runs
        How many from an empty start, each a draw of its own, the same draws for every threshold.

    Raises
    ------
    UnsupportedError
        If the engine has no admission threshold.
    """
    kind = kind_of(question.instance)
    if KNOB not in {field.name for field in fields(kind.settings)}:
        raise UnsupportedError(f"the engine {kind.name} has no {KNOB} to change")
    rows = []
    for threshold in thresholds:
        node: Any = replace(cast(Any, question.instance), **{KNOB: float(threshold)})
        asked = question.on(node)
        waits, evicts = np.empty(runs), np.empty(runs)
        for k in range(runs):
            run = discrete.simulate(drawn(asked, k), node, record_batches=False)
            samples = run.samples()
            waits[k], evicts[k] = samples.queue_delay.mean(), run.metrics().evictions > 0
        rows.append(
            ThresholdRow(
                threshold=float(threshold),
                engine=run_from_backlog(asked, backlog=backlog, window=window),
                fluid=fluid_from_backlog(asked, backlog=backlog, window=window),
                wait=float(waits.mean()),
                wait_error=float(waits.std(ddof=1) / np.sqrt(runs)) if runs > 1 else 0.0,
                collapsed=float(evicts.mean()),
            )
        )
    return rows


def drawn(question: Question, replication: int) -> RequestTable:
    """Return the requests of a replication.

    Raises
    ------
    WorkloadError
        If nobody arrives by the horizon: then there is nothing to run.
    """
    requests = question.replication(replication)
    if requests is None:
        raise WorkloadError(f"no request arrives by time {question.horizon:g}")
    return requests


def times_to_full(question: Question, *, runs: int, expected: float) -> NDArray[np.float64]:
    """Return when the engine first had no room for the next request, once per run, shape (R,).

    Parameters
    ----------
    question
        Of one prefill length, so that "the next request" has a size.
    expected : [time]
        A guess at the mean; runs go on four times as long until the memory has filled.
    """
    instance = question.instance
    step = saturation(question.mix, instance).batch_time / 4
    memory = kind_of(instance).limits(instance)["memory"].value
    room = memory - question.mix.prefill.max() - 1
    found = np.empty(runs)
    for k in range(runs):
        horizon = expected
        while True:
            grid = np.arange(0.0, horizon, step)
            requests = drawn(question.until(horizon), k)
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
