"""The record of predictions: kept when a request is sent, judged when its tokens are reported."""

from __future__ import annotations

from collections.abc import Iterable

from scheduling.messages import BatchTrace, RequestMeta
from scheduling.predictions import Predictions
from scheduling.truths import Truths

MOST_OPEN = 100_000
"""Predictions that wait for their truth at most."""


class Record(Truths):
    """How predictions came true so far, and those whose truth is still to come."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[int, tuple[float, float, tuple[float, float, float] | None]] = {}

    def remember(
        self, last: Predictions, instance_id: int, request: RequestMeta, ts: float
    ) -> None:
        """Keep what was predicted for a request that is sent at ``ts`` [time].

        Parameters
        ----------
        last
            The latest predictions; those for another request are of no use.
        """
        if last.request.request_id != request.request_id:
            return
        c = last.place(instance_id)
        if c is not None:
            e2el = (float(last.e2el[c]), *last.interval(c)) if last.has_e2el else None
            if len(self._open) >= MOST_OPEN:  # of the oldest nobody will hear any more
                self._open.pop(next(iter(self._open)))
            self._open[request.request_id] = (ts, float(last.ttft[c]), e2el)

    def learn(self, trace: BatchTrace) -> None:
        """Compare predictions with what a report says came true."""
        for request_id in trace.started:
            if (was := self._open.get(request_id)) is not None:
                self.ttft.learn(was[1], was[1], was[1], trace.end - was[0])
        for request_id in trace.finished:
            was = self._open.pop(request_id, None)
            if was is not None and was[2] is not None:
                self.e2el.learn(*was[2], trace.end - was[0])
        self.drop(trace.cancelled)

    def drop(self, request_ids: Iterable[int]) -> None:
        """Await the truth of requests no longer."""
        for request_id in request_ids:
            self._open.pop(request_id, None)
