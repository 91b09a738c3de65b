"""A regression that learns the time to the first token from counts while it routes: a baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import BatchTrace, RequestMeta
from scheduling.signals import View, lowest

FORGETS = 0.999
"""Weight of an observation after the next one."""

PRIOR = 1e3
"""Variance of a coefficient before anything was seen."""

FEATURES = 7
"""Numbers that the model sees of an instance, a constant included."""


class Regression:
    """The instance with the lowest time to the first token by a linear model of counts.

    The model is linear in the requests that wait and run, the KV in use and the prompts that wait,
    each by the capacity of the instance, in this prompt, and in what is left of the batch. It is
    one for all instances and is updated with every first token (recursive least squares). Before
    the first one all instances are equal.
    """

    def __init__(self, seed: int) -> None:
        self._weights, self._spread = np.zeros(FEATURES), PRIOR * np.eye(FEATURES)
        self._open: dict[int, tuple[float, NDArray[np.float64]]] = {}
        self._scale = np.ones(0)

    def __call__(self, view: View, request: RequestMeta) -> int:
        """Choose, and note what was known then."""
        seen = self._features(view, request)
        choice = lowest(view, seen @ self._weights)
        self._open[request.request_id] = view.time, seen[choice]
        return choice

    def _features(self, view: View, request: RequestMeta) -> NDArray[np.float64]:
        """Return what the model sees of each instance, shape (N, F)."""
        if self._scale.size == 0:
            self._scale = view.capacity.mean() / view.capacity
        return np.column_stack(
            [
                np.ones(view.size),
                view.num_waiting * self._scale,
                view.num_running * self._scale,
                view.kv_used * self._scale / 1000,
                (view.waiting_prompts + view.own_prompts) * self._scale / 1000,
                request.prefill_length * self._scale / 1000,
                view.batch_residual,
            ]
        )

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Hear of a dispatch, which the choice has noted."""

    def sync_batch_result(self, instance_id: int, batch_trace: BatchTrace) -> None:
        """Learn from the requests whose first token came with a batch."""
        for request in batch_trace.started:
            if request in self._open:
                time, seen = self._open.pop(request)
                self._learn(seen, batch_trace.end - time)

    def _learn(self, seen: NDArray[np.float64], ttft: float) -> None:
        towards = self._spread @ seen
        gain = towards / (FORGETS + seen @ towards)
        self._weights += gain * (ttft - seen @ self._weights)
        self._spread = (self._spread - np.outer(gain, towards)) / FORGETS
        # what is never seen would grow without end
        self._spread *= min(1.0, PRIOR * FEATURES / np.trace(self._spread))
