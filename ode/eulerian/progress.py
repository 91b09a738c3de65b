"""How far requests have come in an Eulerian solution: who has begun, their mean progress."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode.eulerian.problem import EulerianProblem, March

FEW = 1e-3
"""Evictions per completion up to which they are negligible."""

BRIEF = 1e-2
"""Share of the batches that those who have begun may miss before gaps between tokens matter."""


def evicting(done: March) -> bool:
    """Return whether evictions are not negligible."""
    return bool(done["evicted"][-1] > FEW * done["completed"][-1])


def uninterrupted(problem: EulerianProblem, done: March) -> bool:
    """Return whether those who have begun execute in (almost) every batch until they finish."""
    if evicting(done):
        return False
    batches, active = done["theta"], _active(problem, done)
    missed = np.trapezoid(np.maximum(active - done["n"], 0.0), batches)
    return bool(missed <= BRIEF * np.trapezoid(active, batches))


def begun_of(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return how many fresh requests have begun to execute, non-decreasing.

    Passages through stage 1, less those of requests that had begun before: sacrificed with
    progress and back again, or in the initial state.
    """
    before = problem.X[:, 0].sum()
    passed = done["first_tokens"] + done["n_1"]
    if done.swapping:
        before += problem.pool[:, 0].sum()
    else:
        before += problem.pool.sum()
        restarts = done["evicted"] - done["evicted_fresh"]
        share = np.divide(restarts, done["evicted"], out=np.zeros_like(restarts),
                          where=done["evicted"] > 0)  # fmt: skip
        passed = passed - restarts + share * done["m"]
    return np.maximum.accumulate(np.maximum(passed - before, 0.0))


def executing_of(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return the share of those at stage 1 that executes: whether entrants begin at once."""
    at_first = problem.X[:, 0].sum() + done["admitted"] - done["first_tokens"]
    if done.swapping:
        at_first += problem.pool[:, 0].sum()
    else:
        at_first += problem.pool.sum() + done["evicted"] - done["m"] - done["evicted_fresh"]
    nobody = at_first <= 1e-9 * max(float(at_first.max()), 1e-300)
    return np.where(nobody, 1.0, np.clip(done["n_1"] / np.where(nobody, 1.0, at_first), 0.0, 1.0))


def clock_of(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return the progress [tokens] of a request that has begun, cumulative over time."""
    undisturbed = done["evicted"][-1] <= 1e-9 * done["completed"][-1]
    if undisturbed and np.allclose(done["n"], done["N"], rtol=1e-9, atol=1e-12):
        return done["theta"]
    active = _active(problem, done)
    batches = np.diff(done["theta"])
    # a token per batch each, not the flux: while RUNNING fills, its entrants are within a stage
    progress = 0.5 * (done["n"][1:] + done["n"][:-1]) * batches
    if not done.swapping:
        progress = progress - np.diff(done["wasted"])
    mean_active = np.maximum(0.5 * (active[1:] + active[:-1]), 1e-300)
    rate = np.clip(progress / mean_active, 0.0, batches)
    return np.append(0.0, np.cumsum(rate))


def _active(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return how many have begun and not finished."""
    inside = problem.X.sum() + problem.pool.sum()
    return begun_of(problem, done) + inside - done["completed"]


def decoded_anew(problem: EulerianProblem, done: March) -> tuple[float, float]:
    """Return the tokens [tokens] and work [token-iterations] that repeat what sacrifice lost.

    All of it once the system is empty. Before, those evicted at a time have k tokens each to
    repeat; they return when as many have returned as were evicted before them, and repeat as the
    mean progress does.
    """
    if done.swapping or done["evicted"][-1] <= 0:
        return 0.0, 0.0
    if problem.drain:
        return float(done["wasted"][-1]), float(done["wasted_work"][-1])
    evicted, lost = np.diff(done["evicted"]), np.diff(done["wasted"])
    some = evicted > 0
    each = np.divide(lost, evicted, out=np.zeros_like(lost), where=some)
    work = np.divide(np.diff(done["wasted_work"]), evicted, out=np.zeros_like(lost), where=some)
    count = 0.5 * (done["evicted"][1:] + done["evicted"][:-1])
    returned = np.maximum.accumulate(done["evicted"] - done["m"])
    clock = clock_of(problem, done)
    back = np.interp(first_time_at(done.time, returned, count), done.time, clock)
    share = np.where(returned[-1] > count, np.minimum(clock[-1] - back, each), 0.0)
    share = np.divide(share, each, out=np.zeros_like(each), where=each > 0)
    prefill = work - 0.5 * each * (each + 1)  # of k tokens; the rest grows with their square
    repeated = share * prefill + 0.5 * share * each * (share * each + 1)
    return float(evicted @ (share * each)), float(evicted @ repeated)


def first_time_at(
    time: NDArray[np.float64], cumulative: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the first time at which a cumulative curve reaches each ``count``."""
    after = np.clip(np.searchsorted(cumulative, count, side="left"), 1, time.size - 1)
    low, high = cumulative[after - 1], cumulative[after]
    share = np.clip((count - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return time[after - 1] + share * (time[after] - time[after - 1])
