"""What the predictor answers for several instances: arrays, and a :class:`Prediction` of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scheduling.answering import E2EL, EARLY, EXTERNALITY, LATE, TTFT
from scheduling.messages import Prediction, RequestMeta


class Predictions:
    """Predictions for the instances that were asked for.

    Parameters
    ----------
    instances : shape (C,)
        Places in the fleet.
    answers : shape (C, ANSWER_COLUMNS) [time]
        See :mod:`scheduling.answering`.
    has_e2el
        Whether more than first tokens was asked for.
    level
        Who answered.
    request
        For whom.
    """

    __slots__ = ("_answers", "has_e2el", "instances", "level", "request")

    def __init__(
        self,
        instances: NDArray[np.int64],
        answers: NDArray[np.float64],
        has_e2el: bool,
        level: str,
        request: RequestMeta,
    ) -> None:
        self.instances, self._answers, self.has_e2el = instances, answers, has_e2el
        self.level, self.request = level, request

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

    def __len__(self) -> int:
        return self.instances.size

    def __getitem__(self, c: int) -> Prediction:
        row = self._answers[c]
        ttft = float(row[TTFT])
        if not self.has_e2el:
            return Prediction(int(self.instances[c]), ttft, np.nan, None, None, None, None, 0.0,
                              "fair", self.level)  # fmt: skip
        e2el = float(row[E2EL])
        return Prediction(
            int(self.instances[c]), ttft, np.nan, e2el, None,
            (float(row[EARLY]), float(row[LATE])), None, float(row[EXTERNALITY]), "fair",
            self.level,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Prediction]:
        return (self[c] for c in range(len(self)))
