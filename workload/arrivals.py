"""Draw arrival times: a renewal process runs on the clock of expected arrivals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import RateProfile, WorkloadError

CHUNK = 256
"""Gaps that are drawn at first; then twice as many each time."""


def unit_renewals(
    rng: np.random.Generator, burstiness: float, enough: Callable[[NDArray[np.float64]], bool]
) -> NDArray[np.float64]:
    """Return points of a stationary gamma renewal process of rate 1, until ``enough`` says so.

    Gaps are gamma of shape ``burstiness`` and mean 1 (1 is Poisson, below 1 burstier). The
    first has the equilibrium law, a length-biased gap cut at a uniform point, so that the
    expected number of points in (0, u] is exactly u. Points do not depend on how many are asked.
    """
    first = rng.standard_gamma(burstiness + 1) / burstiness * rng.random()
    points = np.array([first])
    size = CHUNK
    while not enough(points):
        gaps = rng.standard_gamma(burstiness, size) / burstiness
        points = np.append(points, np.cumsum(np.append(points[-1], gaps))[1:])
        size *= 2
    return points


def crossing_times(profile: RateProfile, count: ArrayLike) -> NDArray[np.float64]:
    """Return when a profile first reaches each ``count`` [requests]: its inverse, shape of count.

    Raises
    ------
    WorkloadError
        If a count lies beyond the profile's total.
    """
    count = np.asarray(count, float)
    if count.size and count.max() > profile.total:
        raise WorkloadError(
            f"the rate profile gives {profile.total:g} expected arrivals by time "
            f"{profile.horizon:g}; {count.max():g} were asked for"
        )
    time, total = profile.time, profile.cumulative
    k = np.clip(np.searchsorted(total, count, side="left"), 1, total.size - 1)
    rise = total[k] - total[k - 1]
    into = (count - total[k - 1]).clip(0)
    # the share of the rise, not the slope: that of a tiny rise would overflow
    share = np.divide(into, rise, out=np.zeros_like(rise), where=rise > into).clip(0, 1)
    share = np.where((rise > 0) & (into >= rise), 1.0, share)
    return np.minimum(time[k - 1] + share * (time[k] - time[k - 1]), time[k])


def profile_reaching(
    profile: Callable[[float], RateProfile], count: float, guess: float
) -> RateProfile:
    """Return the profile over a horizon long enough for ``count`` expected arrivals.

    Horizons are powers of two from about ``guess`` on, so a constant rate is inverted to the same
    bits whatever the horizon.

    Raises
    ------
    WorkloadError
        If the profile dries up before.
    """
    exponent = math.ceil(math.log2(guess))
    for _ in range(40):
        grown = profile(2.0**exponent)
        if grown.total >= count:
            return grown
        exponent += 1
    raise WorkloadError(
        f"the rate profile gives {grown.total:g} expected arrivals in all; "
        f"{count:.0f} were asked for"
    )
