"""How fast requests come in, as far as the last ones tell."""

from __future__ import annotations

import math

MEMORY = 200.0
"""Requests after which one counts 1/e of a new one."""


class ArrivalRate:
    """Rate of a stream, by forgetting: requests over time, both weighted by how long ago.

    Parameters
    ----------
    prior : [requests/time]
        What is believed before any request came; None believes nothing.
    memory : [requests]
        How many requests back the estimate reaches.
    """

    __slots__ = ("_count", "_last", "_memory", "_time")

    def __init__(self, prior: float | None = None, memory: float = MEMORY) -> None:
        self._memory, self._last = memory, math.nan
        known = 0.25 * memory if prior else 0.0
        self._count, self._time = known, known / prior if prior else 0.0

    def note(self, at: float) -> None:
        """Count a request that came at a time; one that is late counts at the latest time."""
        gap = max(0.0, at - self._last) if self._last == self._last else 0.0
        self._last = at if self._last != self._last else max(self._last, at)
        keep = 1.0 - 1.0 / self._memory
        self._count, self._time = keep * self._count + 1.0, keep * self._time + gap

    @property
    def value(self) -> float:
        """The rate [requests/time]; 0 before two requests came."""
        return self._count / self._time if self._time > 0.0 else 0.0
