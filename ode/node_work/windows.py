"""Windows of constant arrival rate that stand for a rate profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import RateProfile

WINDOWS, OUTPUT_WINDOWS = 48, 96
"""Most windows that the law of work in system is followed through, and windows that a trajectory is
shown at."""

MOST_JUMPS = 4
"""Most moments of many arrivals that get a window of their own each."""

MOMENT = 1e-7
"""Half the length of such a window, over the horizon: nothing is served in it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which the arrival rate is constant.

    Parameters
    ----------
    duration : [time]
        Length of the window.
    rate : [requests/time]
        Arrival rate.
    middle, end : [requests/time]
        Rate at which the requests that execute came, in the middle of the window and at its end:
        it follows the arrival rate with the memory of a decode.
    """

    duration: float
    rate: float
    middle: float
    end: float


def windows_between(
    profile: RateProfile, edges: NDArray[np.float64], memory: float
) -> list[Window]:
    """Return the windows between ``edges``; arrivals at time 0 belong to the first.

    Parameters
    ----------
    profile
        When requests arrive.
    edges : shape (W + 1,) [time]
        From 0, rising.
    memory : [time]
        How long a request executes.
    """
    count = profile.count(edges)
    count[0] = 0.0
    rates = np.diff(count) / np.diff(edges)
    windows = []
    end = float(rates[0]) if rates.size else 0.0
    for rate, duration in zip(rates.tolist(), np.diff(edges).tolist(), strict=True):
        keep = float(np.exp(-0.5 * duration / memory))
        middle, end = rate + (end - rate) * keep, rate + (end - rate) * keep**2
        windows.append(Window(duration, rate, middle, end))
    return windows


def edges_of(profile: RateProfile, horizon: float) -> NDArray[np.float64]:
    """Return the edges [time] of the windows that follow the profile, at most :data:`WINDOWS`.

    They are the knots of the profile where these are few.
    """
    knots = profile.time[profile.time < horizon]
    jumps = knots[:-1][np.diff(knots) == 0] if knots.size > 1 else knots[:0]
    if np.unique(knots).size > WINDOWS or jumps.size > MOST_JUMPS:
        return np.linspace(0.0, horizon, WINDOWS + 1)
    edges = np.unique(np.concatenate([[0.0], knots, [horizon]]))
    if jumps.size:
        moment = MOMENT * max(horizon, 1e-300)
        edges = np.unique(np.concatenate([edges, jumps - moment, jumps + moment]))
        edges = edges[(edges >= 0) & (edges <= horizon)]
    return edges
