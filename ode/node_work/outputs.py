"""What the model knows of one node over time, besides latencies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode.node_work.forward import followed, most_steps
from ode.node_work.passage import Passage, Problem, first_step
from ode.node_work.presence import Arrivals, present
from ode.node_work.windows import OUTPUT_WINDOWS, windows_between
from serving import Trajectory


def trajectory_of(problem: Problem, found: Passage, arrivals: Arrivals) -> Trajectory:
    """Return the mean of what this model knows of the node, over time.

    Running requests are those that memory holds, executing or not; what is swapped or evicted
    is not part of the model.
    """
    edges = np.linspace(0.0, problem.horizon, OUTPUT_WINDOWS + 1)
    outputs = _outputs(problem, found, edges)
    waiting = problem.initial.waiting
    arrived = waiting + problem.profile.count(edges)
    arrived[0] = waiting
    samples = arrivals.samples
    inside = present(arrivals, samples.e2el, edges, outputs["in_system"])
    outputs["completed"] = np.maximum.accumulate(np.maximum(arrived - inside, 0.0))
    outputs["in_system"] = arrived - outputs["completed"]
    queue = present(arrivals, samples.queue_delay, edges, outputs["waiting"])
    outputs["waiting"] = np.minimum(queue, outputs["in_system"])
    outputs["running"] = outputs["in_system"] - outputs["waiting"]
    return Trajectory(edges, outputs)


def _outputs(
    problem: Problem, found: Passage, edges: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return what the law of V says at ``edges``, of requests of the age and rate of that time."""
    model, laws = problem.model, _laws(problem, found, edges)
    windows = windows_between(problem.profile, edges, model.stay)
    begins = np.cumsum([0.0, *(window.duration for window in problem.windows)])
    ages = np.interp(edges, begins, found.age).tolist()
    start = windows[0]
    regimes = [problem.regimes.at(start.rate)]
    regimes += [
        problem.regimes.at(window.end, age, window.rate)
        for window, age in zip(windows, ages[1:], strict=True)
    ]
    top = int(np.flatnonzero(laws.any(axis=0)).max(initial=0)) + 1  # nobody is above
    given = [regime.outputs(model.beyond_batch(regime.closure), top) for regime in regimes]
    return {
        name: np.array([law[:top] @ at[name] for law, at in zip(laws, given, strict=True)])
        for name in given[0]
    }


def _laws(problem: Problem, found: Passage, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the law of V at ``edges``, (W + 1, K + 1), between the steps of the windows."""
    law, now = problem.start.copy(), 0.0
    moments, laws = [np.zeros(1)], [law[None].copy()]
    for window, regime in zip(problem.windows, found.regimes, strict=True):
        first = first_step(regime, window)
        most = most_steps(first, window.duration)
        time, path = np.empty(most), np.empty((most, law.size))
        band, below = regime.generator(window.rate)
        count = followed(band, below, law, first, window.duration, np.zeros(law.size), time, path)
        assert count <= most
        moments.append(now + time[:count])
        laws.append(path[:count])
        now += window.duration
    moment, path = np.concatenate(moments), np.concatenate(laws)
    at = np.interp(edges, moment, np.arange(moment.size))
    lower = np.minimum(at.astype(np.intp), max(moment.size - 2, 0))
    upper = np.minimum(lower + 1, moment.size - 1)
    late = (at - lower)[:, None]
    return path[lower] * (1.0 - late) + path[upper] * late
