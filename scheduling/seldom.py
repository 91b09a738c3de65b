"""A predictor of instances that tell seldom or never: it believes its own forecasts meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ode import DURATION, START
from scheduling.answering import LATEST, NUMBER, ORIGIN, STEPS
from scheduling.instance_state import InstanceState
from scheduling.lengths import LengthModel
from scheduling.messages import BatchTrace, RequestMeta, check_time
from scheduling.predictions import Predictions
from scheduling.predictor import ALL, Predictor
from scheduling.silence import Forecast, Moved
from serving import Instance, RequestMix

USED = 0.5
"""Share of a forecast after which a belief is moved on and forecast anew: its end knows less."""

BACK = 8.0
"""Batches by which a belief goes back at most, to where a late report says how many were there."""

MOST_MOVES = 100
"""Forecasts that are made one after another at most, to move on a belief that is old."""


class SeldomToldPredictor(Predictor):
    """Predicts for instances whose reports do not come with every batch.

    :class:`Predictor` takes silence for a batch that goes on. This one takes batches to end as its
    forecast says until a report comes. Then it believes the report; where those before it have not
    come, it applies the report to what it believes, and the counts in it set this right. What it
    believes is in parts of requests. Who waits as far as was reported, but is believed to have left
    with all but certainty (:data:`scheduling.silence.SURE`), is followed by name no longer, so that
    silence costs no memory.

    Parameters
    ----------
    instances, mix, options
        As of a :class:`Predictor`.

    Attributes
    ----------
    left_unheard
        Requests that are followed no longer, because they are believed to have left.
    """

    def __init__(self, instances: Sequence[Instance], mix: RequestMix, **options: Any) -> None:
        super().__init__(instances, mix, **options)
        self._first_tokens = self._tokens  # a belief moves on by the whole of a forecast
        self._survive = _survive(mix, self.lengths)
        self._beliefs: list[InstanceState | None] = [None] * len(self.instances)
        self._is_marched = [False] * len(self.instances)
        self._used_at = np.full(len(self.instances), np.inf)
        self._earliest = np.full(len(self.instances), -np.inf)
        self._moved_on = [True] * len(self.instances)
        self.left_unheard = 0

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Note that a request was sent; see :meth:`Predictor.enqueue_request`."""
        state = self._state(instance_id)
        check_time(ts)
        self._go_back(ts)
        if state.batch_id < 0 and ts < state.boundary:
            state.boundary = ts  # it says when an idle instance got work, and was ahead
        belief = self.believed(instance_id, ts)
        self._leave_unheard(instance_id)
        before = len(state.waiting)
        super().enqueue_request(instance_id, request_meta, ts)
        if len(state.waiting) == before:
            return
        if belief is not state:
            of = 1 + self.lengths.part_of(request_meta.prefill_length)
            belief.enqueue(request_meta, of, ts)
        self._is_marched[instance_id] = False

    def sync_batch_result(
        self, instance_id: int, batch_trace: BatchTrace, ts: float | None = None
    ) -> None:
        """Take a report, which is believed; see :meth:`Predictor.sync_batch_result`."""
        state = self._state(instance_id)
        counts = state.counts
        doubled = counts.duplicate
        boundary = -np.inf
        if batch_trace.batch_id > state.batch_id + 1:  # of those in between nobody has told
            batch_trace, boundary = self._go_on(instance_id, batch_trace)
        super().sync_batch_result(instance_id, batch_trace, ts)
        state.boundary = max(state.boundary, boundary)
        if counts.duplicate == doubled:
            self.march_anew(instance_id)

    def _go_on(self, i: int, trace: BatchTrace) -> tuple[BatchTrace, float]:
        """Let the state before a batch be what is believed.

        Where the report comes late the belief is ahead of it. If the instance tells how many were
        there a few batches ago, it goes back to then; else only names of the report are of use.

        Returns
        -------
        trace, boundary
            What to apply to the state, and the earliest boundary after it [time].
        """
        state, begin = self.states[i], trace.end - trace.duration
        belief = self.believed(i, begin)
        if belief is state:
            return trace, -np.inf
        self._leave_unheard(i)
        state.go_on_from(belief, trace.batch_id)
        ahead = (state.boundary - begin) / trace.duration if trace.duration > 0.0 else 0.0
        if ahead < 0.5:
            return trace, -np.inf
        if ahead <= BACK and trace.num_waiting is not None and trace.num_running is not None:
            state.running.rewind(round(ahead))
            return trace, -np.inf
        state.running.rewind(1)  # the report adds a batch
        names = replace(trace, num_waiting=None, num_running=None, kv_used=None)
        return names, state.boundary

    def march_anew(self, instance_id: int) -> None:
        """Work out anew what is believed beyond the reports; see :meth:`Predictor.march_anew`."""
        super().march_anew(instance_id)
        self._beliefs[instance_id], self._is_marched[instance_id] = None, False
        self._earliest[instance_id] = -np.inf

    def believe(self, instance_id: int, belief: InstanceState) -> None:
        """Let this be what an instance is believed to be, beyond its reports."""
        self._beliefs[instance_id], self._moved_on[instance_id] = belief, True
        self._earliest[instance_id] = belief.boundary - BACK * belief.last_duration

    def _go_back(self, ts: float) -> None:
        """Believe anew from the reports what is believed of a time far after ``ts`` [time].

        Somebody has asked about a far time; to ask changes nothing of what is known.
        """
        for i in (self._earliest > ts).nonzero()[0].tolist():
            self.march_anew(i)

    def _leave_unheard(self, i: int) -> None:
        """Follow those by name no longer who are believed to have left."""
        state, belief = self.states[i], self._beliefs[i]
        if belief is None or not self._moved_on[i]:
            return
        self._moved_on[i] = False
        here = [*state.waiting, *(state.running._group_of if state.in_parts else ())]
        self.left_unheard += state.leave_unheard([each for each in here if not belief.has(each)])

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, ts: float, action_hint: str = ALL
    ) -> Predictions:
        """Say what would happen to a request now; see :meth:`Predictor.predict`."""
        check_time(ts)
        self._go_back(ts)
        self._dirty.update((self._used_at < ts).nonzero()[0].tolist())
        return super().predict(instance_id, request_meta, ts, action_hint)

    def believed(self, instance_id: int, ts: float) -> InstanceState:
        """Return what an instance is believed to be at ``ts`` [time].

        It is the reported state where no batch is believed to have ended since.
        """
        i = instance_id
        for _ in range(MOST_MOVES):
            state = self._beliefs[i] or self.states[i]
            if state.is_idle or ts <= state.boundary:
                break
            if not self._is_marched[i]:
                self._march_from(state, i, state.boundary, even=ts - state.boundary)
                if i in self.record.failed:
                    break
            moved = self._moved(i, state, ts)
            if moved.batches == 0:
                break
            self.believe(i, moved.state())
            self._is_marched[i] = False
            self._dirty.add(i)
            if moved.batches < self._about[i, STEPS] * self._forecasters[i].batches:
                break
        return self._beliefs[i] or self.states[i]

    @property
    def beliefs(self) -> list[InstanceState]:
        """What each instance is believed to be, as of the latest time that it was asked about."""
        return [mine or told for mine, told in zip(self._beliefs, self.states, strict=True)]

    def in_system(self, ts: float) -> NDArray[np.float64]:
        """Return how many requests are believed to be on each instance, shape (N,) [requests]."""
        found = np.zeros(len(self.states))
        for i in range(found.size):
            state = self._beliefs[i] or self.states[i]
            is_known = state.is_idle or not self._is_marched[i]
            found[i] = state.in_system if is_known else self._moved(i, state, ts).in_system
        return found

    def _moved(self, i: int, state: InstanceState, until: float) -> Moved:
        about, of = self._about[i], self._forecasters[i]
        forecast = Forecast(
            self._curves[i], int(about[STEPS]), of.batches, of.again, about[ORIGIN],
            about[NUMBER], of.unit,
        )  # fmt: skip
        return Moved(state, forecast, self._survive, until)

    def _march(self, i: int, now: float) -> None:
        """Make the forecast of an instance anew, from what it is believed to be."""
        state = self.believed(i, now)
        self._march_from(state, i, now)
        self._is_marched[i] = True
        about, steps = self._about[i], int(self._about[i, STEPS])
        about[LATEST] = np.inf
        if steps:
            end = self._curves[i, START, steps - 1] + self._curves[i, DURATION, steps - 1]
            self._used_at[i] = now + USED * max(end - (now - about[ORIGIN]), 0.0)


def _survive(mix: RequestMix, lengths: LengthModel) -> NDArray[np.float64]:
    """Return the chance of more than so many tokens, of any request and of each class."""
    longest = lengths.survive.shape[1]
    share = np.bincount(np.minimum(mix.decode, longest - 1), mix.probability, minlength=longest)
    whole = np.maximum(1.0 - np.cumsum(share / share.sum()), 0.0)
    return np.vstack([whole, lengths.survive[: len(lengths.parts)]])
