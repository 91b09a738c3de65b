"""When the arrivals come whose latencies are drawn, and who comes while they wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_STEP = np.sqrt(2.0) - 1.0
"""Between chances that fill [0, 1] evenly: the fraction of its multiples."""


class Coming(Protocol):
    """Arrivals."""

    def moments(self, level: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return a moment [time] at which an arrival meets each of the levels, shape (N,)."""
        ...

    def arrived(self, when: NDArray[np.float64], wait: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many requests come while those of the moments ``when`` wait, (N,)."""
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Arrivals at one rate for ever: when they come does not matter.

    Parameters
    ----------
    rate : [requests/time]
        At which they come.
    """

    rate: float

    def moments(self, level: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return time 0."""
        return np.zeros(level.size)

    def arrived(self, when: NDArray[np.float64], wait: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many come in ``wait``."""
        return self.rate * wait


@dataclass(frozen=True, slots=True, eq=False)
class InWindows:
    """Arrivals in windows of time.

    Parameters
    ----------
    begin, duration : shape (W,) [time]
        Windows.
    flows : shape (W, K + 1) [requests]
        Arrivals in each by the level that they meet.
    count
        Expected arrivals up to a time.
    """

    begin: NDArray[np.float64]
    duration: NDArray[np.float64]
    flows: NDArray[np.float64]
    count: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def moments(self, level: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return a moment [time] at which an arrival meets each of the levels, shape (N,).

        The draws of one level are spread evenly over the moments at which it is met.
        """
        chance = 0.5 + np.arange(level.size) * _STEP
        chance -= np.floor(chance)
        up_to = np.cumsum(np.maximum(self.flows, 0.0), axis=0)
        passed = chance * up_to[-1, level]
        window = np.minimum((up_to[:, level] < passed).sum(axis=0), self.begin.size - 1)
        inside = np.maximum(self.flows[window, level], 1e-300)
        share = (passed - up_to[window, level] + inside) / inside
        return self.begin[window] + np.clip(share, 0.0, 1.0) * self.duration[window]

    def arrived(self, when: NDArray[np.float64], wait: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many requests come while those of the moments ``when`` wait, (N,)."""
        return np.maximum(self.count(when + wait) - self.count(when), 0.0)
