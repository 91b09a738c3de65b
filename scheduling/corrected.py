"""A predictor whose answers are brought closer to what came true, where that has been earned.

For each instance, each latency, and each regime (somebody waits there, or nobody does) a factor is
learnt from requests that were sent and came true. It is used only while it makes the errors of
predictions smaller that it had not seen; see :mod:`scheduling.residuals`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import BatchTrace, RequestMeta
from scheduling.predictions import CorrectedPredictions, Predictions
from scheduling.predictor import ALL, Predictor
from scheduling.record import MOST_OPEN
from scheduling.residuals import Residuals

REGIMES = ("free", "queued")
"""Regimes of an instance: nobody waits for a first token there, or somebody does."""

LATENCIES = ("ttft", "e2el")
"""What is corrected."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent: where, in which regime, when, and what was predicted uncorrected.

    ``plain`` has TTFT and E2EL [time]; None where nothing is to be learnt (any more).
    """

    instance: int
    regime: int
    at: float
    plain: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Correction:
    """What was learnt for one latency of an instance in one regime.

    Parameters
    ----------
    instance, latency, regime
        Place in the fleet; of :data:`LATENCIES`; of :data:`REGIMES`.
    measured
        Predictions that came true.
    factor
        What answers are multiplied by; 1 while ``is_on`` is false.
    held_out_error, held_out_error_corrected
        Mean absolute logarithm of measured over predicted, of predictions that the factor had not
        seen, without and with it.
    """

    instance: int
    latency: str
    regime: str
    measured: int
    is_on: bool
    factor: float
    held_out_error: float
    held_out_error_corrected: float


class CorrectedPredictor:
    """Corrects what a predictor answers, by what came true of its answers so far.

    Parameters
    ----------
    predictor
        Whose answers are corrected; it hears all that this one hears.

    Notes
    -----
    A factor is the median of measured over predicted, between a half and two, and old measurements
    count less. Bounds and risks are those of the corrected answers. What the request costs others,
    and what it leaves for those behind, stays as predicted.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        size = len(predictor.states)
        self.factors: NDArray[np.float64] = np.ones((len(LATENCIES), size, len(REGIMES)))
        self._of = [[[Residuals() for _ in REGIMES] for _ in range(size)] for _ in LATENCIES]
        self._open: dict[int, Sent] = {}
        self._last: CorrectedPredictions | None = None

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Note that a request was sent; see :meth:`Predictor.enqueue_request`."""
        self.predictor.enqueue_request(instance_id, request_meta, ts)
        sent = self.predictor.states[instance_id].waiting.get(request_meta.request_id)
        if self._last is not None and sent is not None and sent.at == ts:  # it was not there yet
            self.remember(self._last, instance_id, request_meta, ts)

    def remember(
        self, last: Predictions, instance_id: int, request_meta: RequestMeta, ts: float
    ) -> None:
        """Keep what was predicted for a request, to learn of it; see :meth:`Predictor.remember`."""
        self.predictor.remember(last, instance_id, request_meta, ts)
        c = last.place(instance_id)
        if (
            c is None
            or not isinstance(last, CorrectedPredictions)
            or last.request.request_id != request_meta.request_id
        ):
            return
        if len(self._open) >= MOST_OPEN:  # of the oldest nobody will hear any more
            self._open.pop(next(iter(self._open)))
        plain = last.plain
        self._open[request_meta.request_id] = Sent(
            instance_id, int(last.regimes[c]), ts,
            (float(plain.ttft[c]), float(plain.e2el[c]) if plain.has_e2el else None),
        )  # fmt: skip

    def sync_batch_result(
        self, instance_id: int, batch_trace: BatchTrace, ts: float | None = None
    ) -> None:
        """Take the report of a batch; see :meth:`Predictor.sync_batch_result`."""
        self.predictor.sync_batch_result(instance_id, batch_trace, ts)
        for request_id in batch_trace.started:
            sent = self._open.get(request_id)
            if sent is not None:
                self._learn(0, sent, batch_trace.end)
                self._open[request_id] = replace(sent, plain=(None, sent.plain[1]))
        for request_id in batch_trace.finished:
            sent = self._open.pop(request_id, None)
            if sent is not None:
                self._learn(1, sent, batch_trace.end)
        for request_id in batch_trace.cancelled:
            self._open.pop(request_id, None)

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, ts: float, action_hint: str = ALL
    ) -> CorrectedPredictions:
        """Say what would happen to a request now; see :meth:`Predictor.predict`."""
        plain = self.predictor.predict(instance_id, request_meta, ts, action_hint)
        asked, present = plain.instances, self.predictor.beliefs
        regimes = np.array([bool(present[i].waiting) for i in asked.tolist()], np.int64)
        self._last = CorrectedPredictions(plain, regimes, *self.factors[:, asked, regimes])
        return self._last

    def forget_instance(self, instance_id: int, since: float = math.inf) -> None:
        """Let an instance be empty again; see :meth:`Predictor.forget_instance`.

        What was predicted for it is not learnt from any more.
        """
        self.predictor.forget_instance(instance_id, since)
        for request_id in [key for key, each in self._open.items() if each.instance == instance_id]:
            del self._open[request_id]

    def _learn(self, latency: int, sent: Sent, end: float) -> None:
        predicted = sent.plain[latency]
        if predicted is None:
            return
        of = self._of[latency][sent.instance][sent.regime]
        of.learn(predicted, end - sent.at)
        self.factors[latency, sent.instance, sent.regime] = of.factor

    def corrections(self) -> list[Correction]:
        """Return what was learnt for each latency, instance and regime, if anything came true."""
        return [
            Correction(i, latency, regime, of.measured, of.is_on, of.factor, *of.errors)
            for latency, by_instance in zip(LATENCIES, self._of, strict=True)
            for i, pair in enumerate(by_instance)
            for regime, of in zip(REGIMES, pair, strict=True)
            if of.errors is not None
        ]
