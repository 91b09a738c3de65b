"""What the predictor answers for several instances: arrays, and a :class:`Prediction` of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduling.answering import BEHIND, E2EL, EARLY, EXTERNALITY, LATE, MIDDLE, TTFT
from scheduling.messages import Prediction, RequestMeta
from scheduling.truths import Truths

WORDS = ((0.1, "high"), (0.3, "fair"))
"""Words of confidence, and how wide the bounds of a TTFT are for them at most, relative."""


class Predictions:
    """Predictions for the instances that were asked for.

    Parameters
    ----------
    instances : shape (C,)
        Places in the fleet.
    answers : shape (C, ANSWER_COLUMNS) [time]
        See :mod:`scheduling.answering`. Infinite where there is no answer.
    tokens : [tokens]
        Expected answer; None where only the first token was asked for.
    level
        Who answered.
    request
        For whom.
    record
        How predictions came true so far.
    stale
        Instances that have not been heard of for too long.
    """

    __slots__ = ("_answers", "_record", "_stale", "_tokens", "instances", "level", "request")

    def __init__(
        self,
        instances: NDArray[np.int64],
        answers: NDArray[np.float64],
        tokens: float | None,
        level: str,
        request: RequestMeta,
        record: Truths,
        stale: frozenset[int] = frozenset(),
    ) -> None:
        self.instances, self._answers, self._tokens = instances, answers, tokens
        self.level, self.request, self._record, self._stale = level, request, record, stale

    @property
    def has_e2el(self) -> bool:
        """Whether more than first tokens was asked for."""
        return self._tokens is not None

    @property
    def ttft(self) -> NDArray[np.float64]:
        """Expected time to first token on each instance, shape (C,) [time]."""
        return self._answers[:, TTFT]

    @property
    def e2el(self) -> NDArray[np.float64]:
        """Expected time to the last token on each instance, shape (C,) [time]."""
        return self._answers[:, E2EL]

    @property
    def externality(self) -> NDArray[np.float64]:
        """Time that the request adds to all others on each instance, shape (C,) [time]."""
        return self._answers[:, EXTERNALITY]

    @property
    def behind(self) -> NDArray[np.float64]:
        """Expected TTFT of those who would come right behind, summed, shape (C,) [time].

        Not-a-number where first tokens alone were asked for, as all else but TTFT is.
        """
        return self._answers[:, BEHIND]

    def place(self, instance_id: int) -> int | None:
        """Return where an instance is among those that were asked for; None if it was not."""
        c = int(np.searchsorted(self.instances, instance_id))
        return c if c < len(self) and self.instances[c] == instance_id else None

    def interval(self, c: int) -> tuple[float, float]:
        """Return between what the unknown length alone leaves an E2EL [time]."""
        return float(self._answers[c, EARLY]), float(self._answers[c, LATE])

    def __len__(self) -> int:
        return self.instances.size

    def __getitem__(self, c: int) -> Prediction:
        return self._prediction(int(self.instances[c]), self._answers[c].tolist())

    def __iter__(self) -> Iterator[Prediction]:
        rows = zip(self.instances.tolist(), self._answers.tolist(), strict=True)
        return (self._prediction(instance, row) for instance, row in rows)

    def _prediction(self, instance: int, row: Sequence[float]) -> Prediction:
        """Return a row of the answers as an object."""
        ttft = row[TTFT]
        bounds = self._record.ttft.bounds(ttft, ttft, ttft)
        confidence = self._confidence(instance, ttft)
        if self._tokens is None:
            return Prediction(
                instance, ttft, np.nan, None, bounds, None, self._risk(ttft, None), np.nan,
                confidence, self.level,
            )  # fmt: skip
        e2el = row[E2EL]
        tpot = (e2el - ttft) / (self._tokens - 1.0) if self._tokens > 1.0 else 0.0
        return Prediction(
            instance, ttft, tpot, e2el, bounds,
            self._record.e2el.bounds(e2el, row[EARLY], row[LATE]), self._risk(ttft, e2el),
            row[EXTERNALITY], confidence, self.level,
        )  # fmt: skip

    def _confidence(self, instance: int, ttft: float) -> str:
        if instance in self._record.failed or not ttft < np.inf:
            return "failed"
        if instance in self._stale:
            return "stale"
        widening = self._record.ttft.widening
        if widening != widening:
            return "unknown"
        return next((word for most, word in WORDS if widening <= most), "low")

    def _risk(self, ttft: float, e2el: float | None) -> float | None:
        """Return the chance to miss what was promised, the larger of both latencies.

        None where something was promised of which nothing is known.
        """
        if self.request.slo_ttft is None and self.request.slo_e2el is None:
            return None
        asked = ((self._record.ttft, ttft, self.request.slo_ttft),
                 (self._record.e2el, e2el, self.request.slo_e2el))  # fmt: skip
        found = [
            None if value is None else track.risk(value, limit)
            for track, value, limit in asked
            if limit is not None
        ]
        known = [each for each in found if each is not None]
        return max(known) if known and len(known) == len(found) else None


class CorrectedPredictions(Predictions):
    """The same predictions with TTFT and E2EL multiplied by factors.

    Parameters
    ----------
    plain
        As they are without.
    regimes : shape (C,)
        Regime of each instance, see :mod:`scheduling.corrected`.
    ttft, e2el : shape (C,)
        Factors.
    """

    __slots__ = ("plain", "regimes")

    def __init__(
        self,
        plain: Predictions,
        regimes: NDArray[np.int64],
        ttft: NDArray[np.float64],
        e2el: NDArray[np.float64],
    ) -> None:
        answers = plain._answers.copy()
        answers[:, TTFT] *= ttft
        answers[:, [E2EL, EARLY, MIDDLE, LATE]] *= e2el[:, None]
        super().__init__(
            plain.instances, answers, plain._tokens, plain.level, plain.request, plain._record,
            plain._stale,
        )  # fmt: skip
        self.plain, self.regimes = plain, regimes
