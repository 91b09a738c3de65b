"""A corrector of answers by what was measured: bounded, and off until it has earned it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MEMORY = 512
"""Measurements that are kept."""

FORGETS = 0.99
"""Weight of a measurement against the next one."""

LARGEST = 2.0
"""Factor of a correction at most; at least it is one over it."""

LEAST_MEASURED = 50
"""Held-out predictions before a correction is thought of."""

GAIN = 0.95
"""Share of the error that must be left at most for a correction to be used."""


class Residuals:
    """How measured values stand to predictions of one kind, and the factor that brings them closer.

    The factor is a median of measured over predicted, of which older ones count less. Each
    measurement is first one that the factor had not seen: whether the factor makes errors smaller
    is judged by those alone.
    """

    def __init__(self) -> None:
        self._logs: NDArray[np.float64] = np.zeros(MEMORY)
        self.measured = 0
        self._errors = [0.0, 0.0]  # of the logarithm, without and with the factor
        self._weight = 0.0
        self._candidate = 1.0

    def learn(self, predicted: float, actual: float) -> bool:
        """Take a measurement; return whether it says anything: both are numbers > 0."""
        if not (0 < predicted < math.inf and 0 < actual < math.inf):
            return False
        off = math.log(actual) - math.log(predicted)
        mine = abs(off), abs(off - math.log(self._candidate))
        self._weight = FORGETS * self._weight + 1.0
        self._errors = [FORGETS * old + new for old, new in zip(self._errors, mine, strict=True)]
        self._logs[self.measured % MEMORY] = off
        self.measured += 1
        factor = math.exp(float(self._quantiles(0.5)[0]))
        self._candidate = min(max(factor, 1.0 / LARGEST), LARGEST)
        return True

    @property
    def is_on(self) -> bool:
        """Whether answers are corrected."""
        plain, corrected = self._errors
        return self.measured >= LEAST_MEASURED and corrected < GAIN * plain

    @property
    def factor(self) -> float:
        """What answers are multiplied by."""
        return self._candidate if self.is_on else 1.0

    @property
    def errors(self) -> tuple[float, float] | None:
        """Mean error of the logarithm on predictions that were held out, without and with it."""
        if not self._weight:
            return None
        return self._errors[0] / self._weight, self._errors[1] / self._weight

    def spread(self, low: float, high: float) -> tuple[float, float]:
        """Return quantiles of measured over corrected answers; 1 where too few are known."""
        if self.measured < LEAST_MEASURED:
            return 1.0, 1.0
        first, last = np.exp(self._quantiles(low, high)) / self.factor
        return float(first), float(last)

    def _quantiles(self, *levels: float) -> NDArray[np.float64]:
        """Return weighted quantiles of the logarithms."""
        size = min(self.measured, MEMORY)
        age = (self.measured - 1 - np.arange(size)) % MEMORY
        order = np.argsort(self._logs[:size])
        below = np.cumsum(FORGETS ** age[order])
        place = np.searchsorted(below, np.array(levels) * below[-1])
        return self._logs[order[np.minimum(place, size - 1)]]
