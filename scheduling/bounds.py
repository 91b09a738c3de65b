"""Bounds that hold as often as they promise: learnt online from predictions that came true or not.

Each truth leaves a score: by how many times its prediction it lies outside of the interval that was
known beforehand, negative inside (conformal prediction). The quantile of the latest scores widens,
or narrows, the next intervals; it follows a drift, because old scores are forgotten. Which quantile
that is follows what the intervals have covered lately (adaptive conformal inference, Gibbs and
Candes 2021), so that they cover what they promise where scores come in runs, as in a busy period.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import numpy as np

from scheduling.messages import COVERS

REMEMBERED = 1000
"""Scores that count [requests]."""

FEWEST = 50
"""Scores from which on bounds are given [requests]."""

STEP = 0.01
"""By how much of a miss the next quantile is higher, and of a hit lower."""

LEAST, MOST = 0.5, 0.995
"""Quantiles between which it moves."""

EVERY = 16
"""Scores after which the quantile is worked out again."""


class Track:
    """How predictions of one latency came true.

    Parameters
    ----------
    covers
        Chance with which the truth is to be within the bounds.

    Attributes
    ----------
    widening
        By how many predictions an interval is widened on either side; not-a-number while fewer than
        :data:`FEWEST` truths are known.
    """

    __slots__ = ("_covers", "_off", "_ranked", "_scores", "_share", "_since", "widening")

    def __init__(self, covers: float = COVERS) -> None:
        self._covers, self._share, self._since = covers, covers, 0
        self._scores: deque[float] = deque(maxlen=REMEMBERED)
        self._off: deque[float] = deque(maxlen=REMEMBERED)
        self._ranked: list[float] | None = None
        self.widening = np.nan

    def __len__(self) -> int:
        """Return how many truths count."""
        return len(self._scores)

    def learn(self, predicted: float, low: float, high: float, truth: float) -> None:
        """Take in what became of a prediction, whose interval was ``low`` to ``high``; [time]."""
        if not 0.0 < predicted < np.inf:
            return
        score = max(low - truth, truth - high) / predicted
        self._scores.append(score)
        if self.widening == self.widening:
            is_covered = score <= self.widening
            self._share += STEP * (self._covers - is_covered)
            self._share = min(max(self._share, LEAST), MOST)
        self._off.append(truth / predicted)
        self._ranked = None
        self._since += 1
        size = len(self._scores)
        if size >= FEWEST and (self._since >= EVERY or size == FEWEST):
            self._since = 0
            share = min(1.0, self._share * (1.0 + 1.0 / size))
            self.widening = float(np.quantile(np.fromiter(self._scores, float, size), share))

    def bounds(self, predicted: float, low: float, high: float) -> tuple[float, float] | None:
        """Return the bounds [time] of a prediction; None while too few truths are known."""
        if not (self.widening == self.widening and predicted < np.inf):
            return None
        more = self.widening * predicted
        low, high = max(0.0, low - more), high + more
        return (low, high) if low < high else (0.5 * (low + high), 0.5 * (low + high))

    def risk(self, predicted: float, limit: float) -> float | None:
        """Return the chance that the truth is above a limit [time]; None as for the bounds."""
        size = len(self._off)
        if size < FEWEST or not 0.0 < predicted:
            return None
        if self._ranked is None:  # many candidates ask between two truths
            self._ranked = sorted(self._off)
        return 1.0 - bisect_right(self._ranked, limit / predicted) / size
