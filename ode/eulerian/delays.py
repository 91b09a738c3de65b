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

from ode._solution import GOLDEN
from ode.eulerian.problem import EulerianProblem, March
from ode.eulerian.progress import (
    begun_of,
    clock_of,
    executing_of,
    first_time_at,
    uninterrupted,
)
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
    """Return latencies of the flow that finishes before the end, weighted by mass.

    Requests of the initial state other than WAITING are not followed; its WAITING arrives at 0.
    """
    present = problem.Q
    total = present + profile.total
    length, share = _lengths(mix)
    fit = SAMPLES // (RESIDUALS * length.size)
    arrivals = int(np.clip(fit, FEWEST_ARRIVALS, MOST_ARRIVALS))
    count = (np.arange(arrivals) + 0.5) / arrivals * total
    arrival = first_time_at(profile.time, profile.cumulative, count - present)
    shift = np.arange(arrivals) * GOLDEN % 1.0
    residual = (np.arange(RESIDUALS)[:, None] + shift) / RESIDUALS
    wait = residual * np.interp(arrival, done.time, done["tau"])
    boundary = done["a"] / problem.values["beta"]
    admitted = np.maximum.accumulate(done["admitted"] + boundary)
    at_once = executing_of(problem, done)
    begun = np.maximum.accumulate(begun_of(problem, done) + at_once * boundary)
    admit = np.maximum(first_time_at(done.time, admitted, count), arrival) + wait
    start = first_time_at(done.time, begun, count)
    queued = 1.0 - np.interp(start, done.time, at_once)  # their lag already has its tau / 2
    start = np.maximum(
        start + wait - 0.5 * queued * np.interp(start, done.time, done["tau"]), admit
    )
    clock = clock_of(problem, done)
    at_start = np.interp(start, done.time, clock)
    first = _time_at(done, clock, at_start + 1)
    finish = _time_at(done, clock, at_start[..., None] + length)
    tpot = (finish - first[..., None]) / np.where(length > 1, length - 1, np.nan)
    each = np.ones_like(finish)
    # drained, everybody finishes; what the clock extrapolates is the negligible rest
    counted = np.full(finish.shape, True) if problem.drain else finish <= done.time[-1]
    itl, itl_weight = _between_tokens(problem, done)
    return LatencySamples(
        queue_delay=((admit - arrival)[..., None] * each)[counted],
        ttft=((first - arrival)[..., None] * each)[counted],
        tpot=tpot[counted],
        e2el=(finish - arrival[:, None])[counted],
        weight=(total / arrivals / RESIDUALS * share * each)[counted],
        itl=itl,
        itl_weight=itl_weight,
    )


def _between_tokens(
    problem: EulerianProblem, done: March
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return inter-token latencies and their weights: batch times, a token after the first each.

    Empty where requests are held up between tokens: how long each is, the queues do not tell.
    """
    if not uninterrupted(problem, done):
        return np.empty(0), np.empty(0)
    weight = np.maximum(np.diff(done["executed"] - done["first_tokens"]), 0.0)
    return 0.5 * (done["tau"][1:] + done["tau"][:-1]), weight


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
