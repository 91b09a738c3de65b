"""Who listens to a fleet: what was sent where, and every batch that ended, faults included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import BatchTrace, Prediction, RequestMeta
from serving import ConfigError


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


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to batch traces on their way.

    Parameters
    ----------
    lost, doubled, reordered
        Shares of the traces that never arrive, that arrive twice, and that arrive after the next
        one of their instance.
    seed
        Of the draws: the same seed does the same to the same traces.
    """

    lost: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lost", "doubled", "reordered"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a share from 0 to 1")
        if self.share > 1:
            raise ConfigError("lost + doubled + reordered", self.share, "together at most 1")

    @property
    def share(self) -> float:
        """Share of the traces to which something happens."""
        return self.lost + self.doubled + self.reordered
