"""Who listens to a fleet: what was sent where, and every batch that ended, faults included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Predictor(Listener, Protocol):
    """A listener who says what would happen to a request."""

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, action_hint: str, ts: float
    ) -> Sequence[Prediction]:
        """Say what happens to a request if it is sent now.

        Parameters
        ----------
        instance_id
            One instance; None asks for all, in their order.
        request_meta
            The request.
        action_hint
            What is wanted: ``ttft`` or ``e2el``.
        ts : [time]
            The present.
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
        if self.lost + self.doubled + self.reordered > 1:
            raise ConfigError("lost + doubled + reordered", self, "together at most 1")
