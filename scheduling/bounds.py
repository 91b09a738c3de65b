"""Bounds that hold as often as they promise: learnt online from predictions that came true or not.

A prediction leaves an interval, of what is unknown of the length, and a scale. When the truth is
known, its score is by how many scales it lies outside of the interval, negative inside. The
quantile of the latest scores widens, or narrows, the next intervals (conformal prediction); it
follows a drift, because old scores are forgotten.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from scheduling.messages import COVERS

REMEMBERED = 1000
"""Scores that count [requests]."""

FEWEST = 50
"""Scores from which on bounds are given [requests]."""

EVERY = 16
"""Scores after which the quantile is worked out again."""


class Widening:
    """By how many scales intervals are widened on either side.

    Parameters
    ----------
    covers
        Chance with which the truth is to be inside.
    """

    __slots__ = ("_covers", "_scores", "_since", "value")

    def __init__(self, covers: float = COVERS) -> None:
        self._covers, self._since = covers, 0
        self._scores: deque[float] = deque(maxlen=REMEMBERED)
        self.value = np.nan

    def __len__(self) -> int:
        """Return how many truths are known."""
        return len(self._scores)

    def learn(self, low: float, high: float, scale: float, truth: float) -> None:
        """Take in what became of a prediction."""
        self._scores.append(max(low - truth, truth - high) / max(scale, 1e-12))
        self._since += 1
        if len(self._scores) >= FEWEST and (self._since >= EVERY or self.value != self.value):
            self._since = 0
            share = min(1.0, self._covers * (1.0 + 1.0 / len(self._scores)))
            self.value = float(np.quantile(np.fromiter(self._scores, float), share))
