"""Windows of constant arrival rate that stand for a rate profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import RateProfile

WINDOWS, OUTPUT_WINDOWS = 48, 96
"""Windows that the law of work in system is followed through, and those that a trajectory is shown
at."""

MOST_WINDOWS = 384
"""Windows of a profile that changes within the former."""

SHORTER = 24
"""Windows of a rate that changes, at least: each is as long as its share of the time at most."""

MOST_JUMPS = 4
"""Most moments of many arrivals that get a window of their own each."""

PER_PIECE, MOST_PIECES = 10.0, 16
"""Arrivals in a piece of a window, and pieces of a window, between which scatter is looked for."""

STRAIGHT = 0.1
"""Change of the rate within windows, over the mean rate, that is passed over."""

BEGINNING, BRIEF = np.geomspace(0.03, 1.0, 9), 0.01
"""Edges of the windows at the beginning, over the longest stay; and the share of the time below
which the beginning does not count."""

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
        window = window_after(duration, rate, end, memory)
        windows.append(window)
        end = window.end
    return windows


def window_after(duration: float, rate: float, before: float, memory: float) -> Window:
    """Return a window that follows another.

    Parameters
    ----------
    duration, rate, memory
        As of :class:`Window` and :func:`windows_between`.
    before : [requests/time]
        Rate at which the requests came that execute when it begins.
    """
    keep = float(np.exp(-0.5 * duration / memory))
    middle, end = rate + (before - rate) * keep, rate + (before - rate) * keep**2
    return Window(duration, rate, middle, end)


def with_beginning(edges: NDArray[np.float64], stay: float) -> NDArray[np.float64]:
    """Return edges [time] with more of them while the first requests are still there.

    Parameters
    ----------
    edges : shape (W + 1,) [time]
        From 0, rising.
    stay : [time]
        How long the first requests are there at most.
    """
    if stay < BRIEF * edges[-1]:
        return edges
    more = stay * BEGINNING
    return np.unique(np.concatenate([edges, more[more < edges[-1] * (1 - 1e-9)]]))


def with_shorter(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges [time] with more of them in long windows: see :data:`SHORTER`.

    Who comes in a window is spread over all of it, whatever work in system it meets. In a long
    window that the node goes through as it fills, those who meet little would come late as well.

    Parameters
    ----------
    edges : shape (W + 1,) [time]
        From 0, rising.
    """
    parts = np.ceil(np.diff(edges) / edges[-1] * SHORTER * (1 - 1e-9)).astype(int)
    pieces = [
        np.linspace(first, last, max(1, number) + 1)[1:]
        for first, last, number in zip(edges[:-1], edges[1:], parts, strict=True)
    ]
    return np.concatenate([edges[:1], *pieces])


def edges_of(profile: RateProfile, horizon: float) -> NDArray[np.float64]:
    """Return the edges [time] of the windows that follow the profile.

    They are the knots of the profile where these are few or the rate changes much between them,
    otherwise :data:`WINDOWS` equal ones, and :data:`MOST_WINDOWS` where the rate changes faster.
    """
    knots = profile.time[profile.time < horizon]
    jumps = knots[:-1][np.diff(knots) == 0] if knots.size > 1 else knots[:0]
    number = min(knots.size, 1) + np.count_nonzero(np.diff(knots))  # knots rise
    if number > WINDOWS or jumps.size > MOST_JUMPS:
        edges = np.linspace(0.0, horizon, WINDOWS + 1)
        if jumps.size > MOST_JUMPS or _unevenness(profile, edges) <= STRAIGHT:
            return edges
        if number > MOST_WINDOWS:
            return np.linspace(0.0, horizon, MOST_WINDOWS + 1)
    edges = np.unique(np.concatenate([[0.0], knots, [horizon]]))
    if jumps.size:
        moment = MOMENT * max(horizon, 1e-300)
        edges = np.unique(np.concatenate([edges, jumps - moment, jumps + moment]))
        edges = edges[(edges >= 0) & (edges <= horizon)]
    return edges


def dispersion_within(profile: RateProfile, edges: NDArray[np.float64]) -> float:
    """Return the dispersion of arrivals about the windows between ``edges``.

    It is that about the curve and, where the windows are too long to follow the curve, that of the
    curve about them. Of given arrival times the curve says all; where they are too few to tell,
    they are taken as Poisson arrivals.
    """
    given = profile.dispersion == 0
    if not given and _unevenness(profile, edges) <= STRAIGHT:
        return profile.dispersion
    number = edges.size - 1
    pieces = int(np.clip(profile.total / PER_PIECE / max(number, 1), 2, MOST_PIECES))
    found = profile.scatter(edges, pieces) if number > 0 else 1.0
    doubt = 2.0 * np.sqrt(2.0 / ((pieces - 1) * max(number, 1)))
    if given and (abs(found - 1.0) <= doubt or (np.diff(edges) < 4 * MOMENT * edges[-1]).any()):
        return 1.0
    return profile.dispersion + found


def _unevenness(profile: RateProfile, edges: NDArray[np.float64]) -> float:
    """Return how far the rate changes within the windows, over the mean rate.

    Windows that are moments of many arrivals are steps as they should be.
    """
    long = np.diff(edges) > 4 * MOMENT * edges[-1]
    inside = np.stack([edges[:-1][long], edges[1:][long]], axis=1)
    if not inside.size:
        return 0.0
    share = np.arange(MOST_PIECES + 1) / MOST_PIECES
    # just inside, so that a jump at an edge is not seen twice
    start, width = inside[:, :1], np.diff(inside, axis=1)
    counts = np.diff(profile.count(start + width * (1e-9 + (1 - 2e-9) * share)), axis=1)
    rates = counts / width
    weight = width / width.sum()
    spread = np.sum(weight * (rates - rates.mean(axis=1, keepdims=True)) ** 2) / MOST_PIECES
    mean = float(np.sum(weight * rates)) / MOST_PIECES
    return float(np.sqrt(spread)) / mean if mean > 0 else 0.0
