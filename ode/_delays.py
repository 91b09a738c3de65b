"""Latencies from Eulerian trajectories: queues are first come, first served (model, section 7).

With A arrivals and K requests that have begun to execute, both cumulative, the request that
arrives at t begins at ``inf{u: K(u) >= A(t)}``; it produces its first token one batch later and
its last when its clock has advanced by D. That clock is the iteration clock ``int dt / tau``
while everybody who has begun executes; where the batch budget or evictions hold some of them up,
or sacrifice takes progress away, it is the mean net progress of those who have begun.

The boundary rate beta makes everybody wait for a boundary: admission ``a`` per batch keeps
``a / beta`` requests there. They are counted as admitted, and the residual of the batch under
way, uniform over (0, tau), is added instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode._eulerian_problem import EulerianProblem, March
from ode._sampling_points import GOLDEN
from serving import LatencySamples, RateProfile, RequestMix

SAMPLES, FEWEST_ARRIVALS, MOST_ARRIVALS = 200_000, 128, 1024
"""About so many samples: arrivals, each with the same share of the flow, times places in the
batch under way times decode lengths."""

RESIDUALS = 4
"""Places in the batch under way at which each arrival falls, equally spaced; successive arrivals
are shifted by the golden ratio so that together they fill the batch evenly."""

MOST_LENGTHS = 256
"""Decode lengths that are followed, each with a similar share of the mix."""


def delay_samples(
    problem: EulerianProblem,
    done: March,
    profile: RateProfile,
    mix: RequestMix,
) -> LatencySamples:
    """Return latencies of the flow, weighted by mass.

    Requests of the initial state other than WAITING are not followed; its WAITING arrives at 0.
    """
    present = problem.Q
    total = present + profile.total
    length, share = _lengths(mix)
    fit = SAMPLES // (RESIDUALS * length.size)
    arrivals = int(np.clip(fit, FEWEST_ARRIVALS, MOST_ARRIVALS))
    count = (np.arange(arrivals) + 0.5) / arrivals * total
    arrival = _inverse(profile.time, profile.cumulative, count - present)
    shift = np.arange(arrivals) * GOLDEN % 1.0
    residual = (np.arange(RESIDUALS)[:, None] + shift) / RESIDUALS
    wait = residual * np.interp(arrival, done.time, done["tau"])
    boundary = done["a"] / problem.values["beta"]
    admitted = np.maximum.accumulate(done["admitted"] + boundary)
    at_once = _executing(problem, done)
    begun = np.maximum.accumulate(_begun(problem, done) + at_once * boundary)
    admit = np.maximum(_inverse(done.time, admitted, count), arrival) + wait
    start = _inverse(done.time, begun, count)
    queued = 1.0 - np.interp(start, done.time, at_once)  # their lag already has its tau / 2
    start = np.maximum(
        start + wait - 0.5 * queued * np.interp(start, done.time, done["tau"]), admit
    )
    clock = _clock(problem, done)
    at_start = np.interp(start, done.time, clock)
    first = _time_at(done, clock, at_start + 1)
    finish = _time_at(done, clock, at_start[..., None] + length)
    tpot = (finish - first[..., None]) / np.where(length > 1, length - 1, np.nan)
    each = np.ones_like(finish)
    return LatencySamples(
        queue_delay=((admit - arrival)[..., None] * each).ravel(),
        ttft=((first - arrival)[..., None] * each).ravel(),
        tpot=tpot.ravel(),
        e2el=(finish - arrival[:, None]).ravel(),
        weight=(total / arrivals / RESIDUALS * share * each).ravel(),
        itl=0.5 * (done["tau"][1:] + done["tau"][:-1]),
        itl_weight=np.diff(done["executed"]),
    )


def _begun(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
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


def _executing(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return the share of those at stage 1 that executes: whether entrants begin at once."""
    at_first = problem.X[:, 0].sum() + done["admitted"] - done["first_tokens"]
    if done.swapping:
        at_first += problem.pool[:, 0].sum()
    else:
        at_first += problem.pool.sum() + done["evicted"] - done["m"] - done["evicted_fresh"]
    nobody = at_first <= 1e-9 * max(float(at_first.max()), 1e-300)
    return np.where(nobody, 1.0, np.clip(done["n_1"] / np.where(nobody, 1.0, at_first), 0.0, 1.0))


def _clock(problem: EulerianProblem, done: March) -> NDArray[np.float64]:
    """Return the progress [tokens] of a request that has begun, cumulative over time."""
    undisturbed = done["evicted"][-1] <= 1e-9 * done["completed"][-1]
    if undisturbed and np.allclose(done["n"], done["N"], rtol=1e-9, atol=1e-12):
        return done["theta"]
    inside = problem.X[:, 1:].sum() + problem.X[:, 0].sum() + problem.pool.sum()
    active = _begun(problem, done) + inside - done["completed"]
    progress = done["executed"] - (0.0 if done.swapping else done["wasted"])
    batches = np.diff(done["theta"])
    mean_active = np.maximum(0.5 * (active[1:] + active[:-1]), 1e-300)
    rate = np.clip(np.diff(progress) / mean_active, 0.0, batches)
    return np.append(0.0, np.cumsum(rate))


def _lengths(mix: RequestMix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most MOST_LENGTHS decode lengths and their shares."""
    values, which = np.unique(mix.decode, return_inverse=True)
    mass = np.asarray(np.bincount(which, weights=mix.probability), float)
    if values.size <= MOST_LENGTHS:
        return values.astype(float), mass
    middle = np.cumsum(mass) - 0.5 * mass
    group = np.minimum((middle * MOST_LENGTHS).astype(int), MOST_LENGTHS - 1)
    share = np.asarray(np.bincount(group, weights=mass, minlength=MOST_LENGTHS), float)
    mean = np.bincount(group, weights=mass * values, minlength=MOST_LENGTHS)
    kept = share > 0
    return mean[kept] / share[kept], share[kept]


def _time_at(
    done: March, clock: NDArray[np.float64], reading: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return when a clock shows ``reading``; beyond its end batches go on as the last one."""
    beyond = np.maximum(reading - clock[-1], 0.0) * done["tau"][-1]
    return np.interp(reading, clock, done.time) + beyond


def _inverse(
    time: NDArray[np.float64], cumulative: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the first time at which a cumulative curve reaches each ``count``."""
    after = np.clip(np.searchsorted(cumulative, count, side="left"), 1, time.size - 1)
    low, high = cumulative[after - 1], cumulative[after]
    share = np.clip((count - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return time[after - 1] + share * (time[after] - time[after - 1])
