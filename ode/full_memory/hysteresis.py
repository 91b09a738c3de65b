"""The load swept up and down slowly: which branch a node is on depends on where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluid import healthy_batch_time, saturation
from ode._solution import Solution
from ode._solve import solve
from ode.full_memory.collapse import Collapse, collapsed_throughput, stay
from serving import (
    DecodeNode,
    FluidServeError,
    RateProfile,
    RequestMix,
    SolveError,
    Trajectory,
    answers,
)

DWELL = 100
"""Stays of a request that the load rests at each step at least."""

SETTLED = 1e-3
"""Share of the arrivals by which completions may still exceed them at the end of a step."""

MOST_PASSES = 60
"""Marches in which every queue that drains must have been given the time to."""


@dataclass(frozen=True, slots=True, eq=False)
class Hysteresis:
    """A sweep of the load, up and then down.

    Parameters
    ----------
    arrival_rate : shape (K,) [requests/time]
        Rate of each step: up to the largest and down again.
    throughput : shape (K,) [requests/time]
        Completions per time at the end of each step, once it has settled.
    in_system : shape (K,) [requests]
        At the end of each step.
    start, end : shape (K,) [time]
        Of each step.
    top
        Index of the largest rate: up to it the load rises, from it on it falls.
    collapse
        The saturated node; its throughput is the lower end of the bistable window.
    solution
        The march itself.
    """

    arrival_rate: NDArray[np.float64]
    throughput: NDArray[np.float64]
    in_system: NDArray[np.float64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    top: int
    collapse: Collapse
    solution: Solution

    @property
    def window(self) -> tuple[float, float] | None:
        """Rates (theta_sac, lambda_M) between which both branches exist; None without a window."""
        found = self.collapse
        return (found.throughput, found.capacity) if found.evicts and found.is_lossy else None

    @property
    def gap(self) -> float:
        """Largest difference of throughput between the way up and the way down, relative."""
        up = {rate: self.throughput[k] for k, rate in enumerate(self.arrival_rate[: self.top + 1])}
        down = zip(self.arrival_rate[self.top :], self.throughput[self.top :], strict=True)
        return max(abs(up[rate] - value) / up[rate] for rate, value in down)


@answers("decode_node")
def hysteresis(
    mix: RequestMix,
    instance: DecodeNode,
    arrival_rate: ArrayLike | None = None,
    *,
    dwell: float = DWELL,
) -> Hysteresis:
    """Sweep the arrival rate up and down on the iteration clock, from the state reached each time.

    Parameters
    ----------
    mix, instance
        Any; without a bistable window the two ways coincide.
    arrival_rate : shape (K,) [requests/time]
        Rates of the way up, increasing; by default from below the bistable window to 4 % above
        capacity.
    dwell
        Rest at each step, in stays of a request. A step that ends while its queue is draining
        goes on until it is empty, so that the way down shows settled states.

    Raises
    ------
    FluidServeError
        If the rates do not increase or the dwell is not positive.
    SolveError
        If a queue does not drain within reason.
    """
    collapse = collapsed_throughput(mix, instance)
    up = _default_rates(collapse) if arrival_rate is None else np.asarray(arrival_rate, float)
    if up.ndim != 1 or up.size < 2 or up[0] <= 0 or (np.diff(up) <= 0).any():
        raise FluidServeError("a sweep needs two or more arrival rates > 0 that increase")
    if not 0 < dwell < float("inf"):
        raise FluidServeError(f"dwell: {dwell} is not allowed; allowed: a finite number > 0")
    rate, top = np.concatenate([up, up[-2::-1]]), up.size - 1
    rest = dwell * _stays(mix, instance, rate, top, collapse)
    length = rest.copy()
    for _ in range(MOST_PASSES):
        edges = np.append(0.0, np.cumsum(length))
        profile = RateProfile.steps(edges[:-1], rate, edges[-1])
        solution = solve(profile, mix, instance, drain=False)
        longer = _unfinished(solution.trajectory, rate, edges, rest)
        if longer is None:
            break
        step, more = longer
        length[step] += more + rest[step]
    else:
        raise SolveError("lagrangian", "not_settled", "a queue drains too slowly")
    trajectory, settled = solution.trajectory, edges[1:] - 0.5 * rest
    return Hysteresis(
        arrival_rate=rate,
        throughput=np.array(
            [trajectory.rate("completed", *each) for each in zip(settled, edges[1:], strict=True)]
        ),
        in_system=np.asarray(trajectory("in_system", edges[1:])),
        start=edges[:-1],
        end=edges[1:],
        top=top,
        collapse=collapse,
        solution=solution,
    )


def _stays(
    mix: RequestMix,
    instance: DecodeNode,
    rate: NDArray[np.float64],
    top: int,
    collapse: Collapse,
) -> NDArray[np.float64]:
    """Return how long a request stays at each step [time], longer near capacity.

    In a saturated node from the top to the first step on the way down at which a queue drains;
    else in a healthy one, where ``tau = duration(rate tau W, rate tau E[D])``, which settles the
    slower the closer it is to capacity: in some stays over 1 - load.
    """
    load = rate / collapse.capacity
    slower = np.where(load < 1, np.maximum(1.0, 0.1 / (1 - np.minimum(load, 0.99))), 1.0)
    full = saturation(mix, instance).batch_time
    batch = [healthy_batch_time(mix, instance, each) for each in rate[: top + 1].tolist()]
    healthy = np.minimum(batch + batch[-2::-1], full) * slower
    drains = np.flatnonzero((rate < collapse.throughput) & (np.arange(rate.size) > top))
    last = drains[0] if drains.size else rate.size - 1
    healthy[top : last + 1] = np.maximum(healthy[top : last + 1], full)
    return stay(mix) * healthy


def _default_rates(collapse: Collapse) -> NDArray[np.float64]:
    """Return three rates below the window, eight in it and one beyond capacity."""
    low, high = min(collapse.throughput, 0.8 * collapse.capacity), collapse.capacity
    step = min((high - low) / 8, low / 4)
    return np.concatenate([low + step * (np.arange(-3, 0) + 0.25), np.linspace(low, high, 17)[1::2],
                           [1.04 * high]])  # fmt: skip


def _unfinished(
    trajectory: Trajectory,
    rate: NDArray[np.float64],
    edges: NDArray[np.float64],
    rest: NDArray[np.float64],
) -> tuple[int, float] | None:
    """Return the first step at whose end the node is still emptying, and how long to give it.

    A queue empties at a steady pace; a node near capacity settles ever more slowly after that.
    """
    for step, end in enumerate(edges[1:]):
        slope = trajectory.rate("in_system", end - 0.5 * rest[step], end)
        if slope < -SETTLED * rate[step]:
            empty = -float(trajectory("in_system", end)) / slope
            return step, min(empty, 100 * (end - edges[step]))
    return None
