"""Who listens to a fleet, and who can be asked: the interfaces of listeners and of predictors.

The fleet, its post and the policies know no more of a predictor than this, so that another one can
be put in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import BatchTrace, Prediction, RequestMeta


class Listener(Protocol):
    """Somebody who is told what is sent to the instances and what these report."""

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Hear that a request is sent to an instance, where it arrives at ``ts`` [time]."""
        ...

    def sync_batch_result(self, instance_id: int, batch_trace: BatchTrace) -> None:
        """Hear that a batch of an instance has ended."""
        ...


class Answers(Protocol):
    """Predictions for the instances that were asked for, as arrays.

    A prediction that failed is not-a-number.
    """

    @property
    def ttft(self) -> NDArray[np.float64]:
        """Time to the first token, shape (C,) [time]."""
        ...

    @property
    def e2el(self) -> NDArray[np.float64]:
        """Time to the last token, shape (C,) [time]."""
        ...

    @property
    def externality(self) -> NDArray[np.float64]:
        """Time that the request adds to all others, shape (C,) [time]."""
        ...

    @property
    def behind(self) -> NDArray[np.float64]:
        """Times to the first token of who would come right behind, summed, shape (C,) [time]."""
        ...

    def __iter__(self) -> Iterator[Prediction]:
        """Go through the predictions one by one."""
        ...


class Predicts(Listener, Protocol):
    """A listener who says what would happen to a request; see :class:`scheduling.Predictor`."""

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, ts: float, action_hint: str
    ) -> Answers:
        """Say what happens to a request if it is sent now.

        Parameters
        ----------
        instance_id
            One instance; None asks for all, in their order.
        request_meta
            The request.
        ts : [time]
            The present.
        action_hint
            What is wanted: ``ttft``, ``behind`` or ``all``.
        """
        ...
