"""How fast requests come in, and where they go, as far as the last ones tell."""

from __future__ import annotations

import math

import numpy as np

MEMORY = 200.0
"""Requests after which one counts 1/e of a new one."""

SET_BACK = 50
"""Requests in a row that came before the latest time: then it is the clock that was set back."""


class ArrivalRate:
    """Rate of a stream, by forgetting: requests over time, both weighted by how long ago.

    Parameters
    ----------
    prior : [requests/time]
        What is believed before any request came; None believes nothing.
    memory : [requests]
        How many requests back the estimate reaches.
    """

    __slots__ = ("_behind", "_count", "_last", "_memory", "_time")

    def __init__(self, prior: float | None = None, memory: float = MEMORY) -> None:
        self._memory, self._last, self._behind = memory, math.nan, 0
        known = 0.25 * memory if prior else 0.0
        self._count, self._time = known, known / prior if prior else 0.0

    def note(self, at: float) -> None:
        """Count a request that came at a time; one that is late counts at the latest time.

        Where all are late, the clock was set back, or had jumped ahead: it begins anew.
        """
        self._behind = self._behind + 1 if at < self._last else 0
        if self._behind >= SET_BACK:
            self._last, self._count, self._time, self._behind = at, 0.0, 0.0, 0
        gap = max(0.0, at - self._last) if self._last == self._last else 0.0
        self._last = at if self._last != self._last else max(self._last, at)
        keep = 1.0 - 1.0 / self._memory
        self._count, self._time = keep * self._count + 1.0, keep * self._time + gap

    @property
    def value(self) -> float:
        """The rate [requests/time]; 0 before two requests came."""
        return self._count / self._time if self._time > 0.0 else 0.0


EQUAL = 50.0
"""Requests of each instance as which the belief counts that all get as many."""


class Inflow:
    """What each instance of a fleet is sent: the rate of the fleet, and its share.

    The share of an instance wanders by chance, and a router that takes chance for a trend shuns the
    instance that has just been busy. So a share forgets slowly, and begins as that of all.

    Parameters
    ----------
    instances
        Of the fleet.
    """

    __slots__ = ("_keep", "_sent", "fleet")

    def __init__(self, instances: int) -> None:
        self.fleet = ArrivalRate()
        self._sent = np.full(instances, EQUAL)
        self._keep = 1.0 - 1.0 / (MEMORY * instances)

    def note(self, instance: int, at: float) -> None:
        """Count a request that was sent to an instance at ``at`` [time]."""
        self.fleet.note(at)
        self._sent *= self._keep
        self._sent[instance] += 1.0

    def of(self, instance: int) -> float:
        """Return what an instance is expected to be sent [requests/time]."""
        return float(self.fleet.value * self._sent[instance] / self._sent.sum())
