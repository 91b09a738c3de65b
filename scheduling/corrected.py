"""A predictor whose answers are brought closer to what came true, where that has been earned.

For each instance, each latency, and each regime (somebody waits there, or nobody does) a factor is
learnt from requests that were sent and came true. It is used only while it makes the errors of
predictions smaller that it had not seen; see :mod:`scheduling.residuals`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import BatchTrace, RequestMeta
from scheduling.predictions import Predictions
from scheduling.predictor import ALL, Predictor
from scheduling.residuals import Residuals

FREE, QUEUED = range(2)
"""Regimes of an instance: nobody waits for a first token there, or somebody does."""

LATENCIES = ("ttft", "e2el")
"""What is corrected."""

MOST_OPEN = 100_000
"""Predictions that wait for their truth at most."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent: where, in which regime, when, and what was predicted uncorrected."""

    instance: int
    regime: int
    at: float
    plain: tuple[float, float | None]


class CorrectedPredictor:
    """Corrects what a predictor answers, by what came true of its answers so far.

    Parameters
    ----------
    predictor
        Whose answers are corrected; it hears all that this one hears.

    Notes
    -----
    A factor is the median of measured over predicted, between a half and two, and old measurements
    count less. Bounds and risks move with the answers. What the request costs others, and what it
    leaves for those behind, stays as predicted.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        size = len(predictor.states)
        self.factors: NDArray[np.float64] = np.ones((len(LATENCIES), size, 2))
        self._of = [[[Residuals(), Residuals()] for _ in range(size)] for _ in LATENCIES]
        self._open: dict[int, Sent] = {}
        self._last: Predictions | None = None

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Note that a request was sent; see :meth:`Predictor.enqueue_request`."""
        last = self._last
        if last is not None and last.request.request_id == request_meta.request_id:
            c = int(np.searchsorted(last.instances, instance_id))
            if c < len(last) and last.instances[c] == instance_id:
                if len(self._open) >= MOST_OPEN:  # of the oldest nobody will hear any more
                    self._open.pop(next(iter(self._open)))
                e2el = float(last.e2el[c]) if last.has_e2el else None
                self._open[request_meta.request_id] = Sent(
                    instance_id, self._regime(instance_id), ts, (float(last.ttft[c]), e2el)
                )
        self.predictor.enqueue_request(instance_id, request_meta, ts)

    def sync_batch_result(
        self, instance_id: int, batch_trace: BatchTrace, ts: float | None = None
    ) -> None:
        """Take the report of a batch; see :meth:`Predictor.sync_batch_result`."""
        for request_id in batch_trace.started:
            sent = self._open.get(request_id)
            if sent is not None:
                self._learn(0, sent, batch_trace.end)
        for request_id in batch_trace.finished:
            sent = self._open.pop(request_id, None)
            if sent is not None:
                self._learn(1, sent, batch_trace.end)
        for request_id in batch_trace.cancelled:
            self._open.pop(request_id, None)
        self.predictor.sync_batch_result(instance_id, batch_trace, ts)

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, ts: float, action_hint: str = ALL
    ) -> Predictions:
        """Say what would happen to a request now; see :meth:`Predictor.predict`."""
        plain = self.predictor.predict(instance_id, request_meta, ts, action_hint)
        self._last = plain
        if (self.factors == 1.0).all():
            return plain
        asked = plain.instances
        regimes = np.array([self._regime(i) for i in asked.tolist()])
        ttft, e2el = self.factors[:, asked, regimes]
        return plain.scaled(ttft, e2el)

    def _regime(self, i: int) -> int:
        return QUEUED if self.predictor.states[i].waiting else FREE

    def _learn(self, latency: int, sent: Sent, end: float) -> None:
        predicted = sent.plain[latency]
        if predicted is None:
            return
        of = self._of[latency][sent.instance][sent.regime]
        of.learn(predicted, end - sent.at)
        self.factors[latency, sent.instance, sent.regime] = of.factor

    def errors(self, latency: str) -> list[tuple[float, float] | None]:
        """Return how far predictions were off that were held out, without and with the factor.

        Parameters
        ----------
        latency
            ``ttft`` or ``e2el``.

        Returns
        -------
        list
            Mean absolute logarithm of measured over predicted, of each instance and regime in
            turn; None where nothing came true yet.
        """
        return [of.errors for pair in self._of[LATENCIES.index(latency)] for of in pair]
