"""Who is in the system over time, and when the last leaves: from arrivals and their stays.

How many are there is no more than who came and has not left, so latencies say it, and better than
the law of the work in system does: that law knows the work that is left, and the number of requests
that it belongs to from the closure alone. The law says how the number moves between times for
which there are too few samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving import LatencySamples

LOST = 0.1
"""Share of those who are there at which the law of the work in system says nothing of them."""

SEEN = 0.1
"""Share of the samples that has to be there about a time, for them to say how many are."""


class Arrivals(NamedTuple):
    """Arrivals, and what becomes of them.

    Parameters
    ----------
    when, start : shape (S,) [time]
        Moments at which they come and at which their decodes start.
    batches : shape (S,) [iterations]
        From the start to the last token.
    samples
        Their latencies.
    """

    when: NDArray[np.float64]
    start: NDArray[np.float64]
    batches: NDArray[np.float64]
    samples: LatencySamples


def present(
    arrivals: Arrivals,
    stay: NDArray[np.float64],
    edges: NDArray[np.float64],
    curve: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how many are there at ``edges``, shape (W + 1,).

    Parameters
    ----------
    arrivals
        All of them.
    stay : shape (S,) [time]
        How long each is there.
    edges : shape (W + 1,) [time]
        From 0, rising, evenly spaced.
    curve : shape (W + 1,) [requests]
        What the law of the work in system says of them.

    Returns
    -------
    ``curve`` times what it is off on average about each time. Where it has next to nobody of those
    who are there, their mean number about that time.
    """
    weight, whole = arrivals.samples.weight, edges[-1]
    if not (whole > 0 and weight.sum() > 0):
        return curve
    here = np.diff(_spent(arrivals.when, weight, edges))
    here -= np.diff(_spent(arrivals.when + stay, weight, edges))
    curve = np.maximum(curve, 0.0)  # schemes of second order overshoot a little
    there = 0.5 * (curve[1:] + curve[:-1]) * np.diff(edges)
    windows = np.arange(here.size)
    inside = np.minimum(stay, np.maximum(whole - arrivals.when, 0.0))
    lasts = float(np.average(inside, weights=weight)) / whole
    reach = int(np.ceil(max(0.0, 0.5 * (windows.size * (SEEN - lasts) - 1.0))))
    first, last = np.maximum(windows - reach, 0), np.minimum(windows + reach + 1, windows.size)
    found, held = (np.append(0.0, np.cumsum(each)) for each in (here, there))
    about = np.maximum(found[last] - found[first], 0.0)
    by_law, lasting = held[last] - held[first], edges[last] - edges[first]
    middle = 0.5 * (edges[1:] + edges[:-1])
    is_lost = by_law <= LOST * about
    factor = np.where(is_lost, 0.0, about / np.where(is_lost, 1.0, by_law))
    number = np.where(is_lost, about / lasting, 0.0)
    return curve * np.interp(edges, middle, factor) + np.interp(edges, middle, number)


def _spent(
    moment: NDArray[np.float64], weight: NDArray[np.float64], until: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the time that passes from the moments to each of ``until``, of all together."""
    order = np.argsort(moment)
    moment, weight = moment[order], weight[order]
    count, summed = (np.append(0.0, np.cumsum(each)) for each in (weight, weight * moment))
    passed = np.searchsorted(moment, until)
    return until * count[passed] - summed[passed]


class Clock:
    """Batches over time, as they pass on average.

    Parameters
    ----------
    duration, batches : shape (W,) [time], [iterations]
        Windows one after the other, and the batches in each; after the last nothing changes.
    """

    def __init__(self, duration: NDArray[np.float64], batches: NDArray[np.float64]) -> None:
        self._time, self._count = (np.append(0.0, np.cumsum(each)) for each in (duration, batches))
        self._each = float(duration[-1] / batches[-1])

    def after(
        self, start: NDArray[np.float64], batches: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return when so many ``batches`` are over that begin at ``start`` [time], (N,)."""
        late = np.maximum(start - self._time[-1], 0.0) / self._each
        count = np.interp(start, self._time, self._count) + late + batches
        late = np.maximum(count - self._count[-1], 0.0) * self._each
        return np.interp(count, self._count, self._time) + late


def in_use(arrivals: Arrivals, clock: Clock, since: float = 0.0) -> float:
    """Return how long it is on average from a time [time] until the last request leaves.

    Batches take all who are in them the same time, so that who leaves last is a matter of when
    requests start and of how many batches they need: the batches pass as they do on average. The
    number of requests that leave after a time is then nearly a Poisson one, so that nobody does
    with the probability exp(-mean); and a mean is the integral of the chance to be longer.
    """
    ends = np.maximum(clock.after(arrivals.start, arrivals.batches) - since, 0.0)
    order = np.argsort(ends)
    later = np.cumsum(arrivals.samples.weight[order][::-1])[::-1]
    return float(np.diff(ends[order], prepend=0.0) @ -np.expm1(-later))
