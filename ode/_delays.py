"""Latencies from Eulerian trajectories: queues are first come, first served (model, section 7).

With A arrivals and K requests that have begun to execute, both cumulative, the request that
arrives at t begins at ``inf{u: K(u) >= A(t)}``; it produces its first token one batch later and
its last when the iteration clock ``theta = int dt / tau`` has advanced by D.

The boundary rate makes everybody wait tau / 2 for a boundary; the residual of a batch that
arrivals cut uniformly is spread over (0, tau) around that mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode._eulerian_problem import March
from ode.initial_state import InitialState
from serving import LatencySamples, RateProfile, RequestMix

MOST_ARRIVALS = 1024
"""Arrival times that are followed, each with the same share of the flow."""

RESIDUALS = (np.arange(4) + 0.5) / 4
"""Where in the batch under way an arrival falls: middles of equal parts."""

LENGTHS = 24
"""Decode lengths that are followed, each with the same share of the mix."""


def delay_samples(
    done: March,
    profile: RateProfile,
    mix: RequestMix,
    initial: InitialState,
    horizon: float,
) -> LatencySamples:
    """Return latencies of the flow, weighted by mass; arrivals that did not begin are absent."""
    del initial
    total = float(profile.count(horizon))
    count = (np.arange(MOST_ARRIVALS) + 0.5) / MOST_ARRIVALS * total
    arrival = _inverse(profile.time, profile.cumulative, count)
    tau = np.interp(arrival, done.time, done["tau"])
    begun = (
        done["first_tokens"] + done["n_first"] if "n_first" in done.columns else done["admitted"]
    )
    admit = _inverse(done.time, np.maximum.accumulate(done["admitted"]), count)
    start = _inverse(done.time, np.maximum.accumulate(begun), count)
    spread = (RESIDUALS[:, None] - 0.5) * tau
    admit, start = np.maximum(admit + spread, arrival), np.maximum(start + spread, arrival)
    theta = done["theta"]
    at_start = np.interp(start, done.time, theta)
    first = _time_at(done, at_start + 1)
    length, share = _lengths(mix)
    finish = _time_at(done, at_start[..., None] + length)
    ttft = first - arrival
    shape = finish.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(length > 1, (finish - first[..., None]) / (length - 1), np.nan)
    weight = total / MOST_ARRIVALS / RESIDUALS.size * share
    return LatencySamples(
        queue_delay=np.broadcast_to((admit - arrival)[..., None], shape).ravel(),
        ttft=np.broadcast_to(ttft[..., None], shape).ravel(),
        tpot=tpot.ravel(),
        e2el=(finish - arrival[:, None]).ravel(),
        weight=np.broadcast_to(weight, shape).ravel(),
        itl=0.5 * (done["tau"][1:] + done["tau"][:-1]),
        itl_weight=np.diff(done["executed"]),
    )


def _lengths(mix: RequestMix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most LENGTHS decode lengths and their shares."""
    values, which = np.unique(mix.decode, return_inverse=True)
    mass = np.bincount(which, weights=mix.probability)
    if values.size <= LENGTHS:
        return values.astype(float), mass
    middle = np.cumsum(mass) - 0.5 * mass
    group = np.minimum((middle * LENGTHS).astype(int), LENGTHS - 1)
    share = np.bincount(group, weights=mass, minlength=LENGTHS)
    mean = np.bincount(group, weights=mass * values, minlength=LENGTHS)
    kept = share > 0
    return mean[kept] / share[kept], share[kept]


def _time_at(done: March, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return when the iteration clock reads ``theta``; past its end at the last batch time."""
    beyond = np.maximum(theta - done["theta"][-1], 0.0) * done["tau"][-1]
    return np.interp(theta, done["theta"], done.time) + beyond


def _inverse(
    time: NDArray[np.float64], cumulative: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the first time at which a cumulative curve reaches each ``count``."""
    after = np.clip(np.searchsorted(cumulative, count, side="left"), 1, time.size - 1)
    low, high = cumulative[after - 1], cumulative[after]
    share = np.clip((count - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return time[after - 1] + share * (time[after] - time[after - 1])
