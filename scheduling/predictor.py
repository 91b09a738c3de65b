"""The online predictor: three operations of a control plane that routes requests.

``enqueue_request`` says that a request was sent to an instance, ``sync_batch_result`` that an
instance has ended a batch, and ``predict`` asks what would happen to a request on an instance, or
on each. A forecast of every instance is marched when it is asked for and something has changed; on
level ``reuse`` it is shared until it no longer fits what is reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ode import DURATION, FORECAST_ROWS, REACH, START, Forecaster, forecaster
from scheduling.answering import (
    ABOUT_COLUMNS,
    AGAIN,
    ANSWER_COLUMNS,
    BATCHES,
    IDLE,
    LATEST,
    NUMBER,
    ORIGIN,
    STEPS,
    UNIT,
    answer_all,
    answer_behind,
    answer_ttft,
    note_march,
)
from scheduling.arrival_rate import Inflow
from scheduling.instance_state import InstanceState
from scheduling.lengths import LengthModel
from scheduling.march_start import MarchStart
from scheduling.messages import BatchTrace, RequestMeta, check_time
from scheduling.predictions import Predictions
from scheduling.record import Record
from scheduling.reuse import ReusePolicy
from serving import ConfigError, FluidServeError, Instance, RequestMix, SolveError

MOST_STEPS = 512
"""Steps of a forecast at most; its pace is carried on beyond."""

FIRST_TOKENS = 32.0
"""Batches that a forecast follows a request that arrives now, where only first tokens are asked."""

TTFT_ONLY, WITH_NEXT, ALL = "ttft", "behind", "all"
"""What :meth:`Predictor.predict` is asked for: first tokens only, also of who would come right
behind, or everything about the request itself."""


class Predictor:
    """Predicts for each instance of a fleet what one more request would see there.

    Parameters
    ----------
    instances
        The fleet: any kinds with a fluid model that makes forecasts, any batch-time laws.
    mix
        Lengths that are expected, of last week's requests say.
    lengths
        What is known of the length of an answer; by default what the mix tells by the prompt.
    level
        ``reuse`` or ``lightweight``.
    arrival_rate : [requests/time]
        Of each instance; None measures it by what is sent there.
    signal_delay : [time]
        How long a report is under way.
    stale_after : [time]
        Without a report for so long an instance that has work is stale; None never says so.

    Raises
    ------
    UnsupportedError
        If no fluid model makes forecasts for an instance.
    ConfigError
        If a level, a rate or a time is not allowed, or the fleet is empty.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        mix: RequestMix,
        *,
        lengths: LengthModel | None = None,
        level: str = "reuse",
        arrival_rate: float | None = None,
        signal_delay: float = 0.0,
        stale_after: float | None = None,
        reuse: ReusePolicy | None = None,
    ) -> None:
        if not instances:
            raise ConfigError("instances", 0, "one instance at least")
        if level not in ("reuse", "lightweight"):
            raise ConfigError("level", level, "reuse or lightweight")
        if arrival_rate is not None and not 0 <= arrival_rate < math.inf:
            raise ConfigError("arrival_rate", arrival_rate, "a finite number >= 0")
        if not 0 <= signal_delay < math.inf:
            raise ConfigError("signal_delay", signal_delay, "a finite time >= 0")
        if stale_after is not None and not stale_after > 0:
            raise ConfigError("stale_after", stale_after, "a time > 0")
        self.instances, self.level = tuple(instances), level
        self.lengths = LengthModel.from_mix(mix) if lengths is None else lengths
        self.reuse = ReusePolicy() if reuse is None else reuse
        self._delay, self._stale_after = signal_delay, stale_after
        size = len(self.instances)
        made: dict[Instance, Forecaster] = {}
        for each in self.instances:
            if each not in made:
                made[each] = forecaster(mix, each, self.lengths.parts)
        self._forecasters = [made[each] for each in self.instances]
        self.arrival_rate = arrival_rate
        self._inflow = Inflow(size)
        self.states = [InstanceState(restarts=each.again) for each in self._forecasters]
        self._curves = np.zeros((size, FORECAST_ROWS, MOST_STEPS))
        self._about = np.zeros((size, ABOUT_COLUMNS))
        self._under_way = [0] * size
        self._marched_running, self._marched_number = [0.0] * size, [0.0] * size
        self._dirty = set(range(size))
        self._start = MarchStart(len(self.lengths.parts) + 1)
        self._all = np.arange(size)
        self.record = Record()
        self._last: Predictions | None = None
        self._tokens = self._goal = float(np.quantile(self.lengths.marks[:, -1], 0.5))
        self._first_tokens = min(FIRST_TOKENS, self._tokens)
        self._short: set[int] = set()
        self.marches = 0
        for i, each in enumerate(self._forecasters):
            self._about[i, BATCHES], self._about[i, AGAIN] = each.batches, each.again
            self._about[i, UNIT] = each.mean_prompt

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Note that a request was sent to an instance.

        Parameters
        ----------
        instance_id
            Place of the instance in the fleet.
        request_meta
            The request.
        ts : [time]
            When it was sent.

        Raises
        ------
        FluidServeError
            If there is no such instance.
        """
        state = self._state(instance_id)
        check_time(ts)
        before = len(state.waiting)
        state.enqueue(request_meta, 1 + self.lengths.part_of(request_meta.prefill_length), ts)
        if len(state.waiting) == before:
            return
        self._inflow.note(instance_id, ts)
        if self._last is not None:
            self.remember(self._last, instance_id, request_meta, ts)
        self._dirty.add(instance_id)

    def remember(
        self, last: Predictions, instance_id: int, request_meta: RequestMeta, ts: float
    ) -> None:
        """Keep what was predicted for a request that was sent at ``ts`` [time], to learn of it.

        :meth:`enqueue_request` does so with the latest predictions; others can be given here.
        """
        self.record.remember(last, instance_id, request_meta, ts)

    def sync_batch_result(
        self, instance_id: int, batch_trace: BatchTrace, ts: float | None = None
    ) -> None:
        """Take the report of a batch; doubled, late and lost ones are counted.

        Parameters
        ----------
        instance_id
            Place of the instance in the fleet.
        batch_trace
            The report.
        ts : [time]
            When it came in; by default when the batch ended.

        Raises
        ------
        FluidServeError
            If there is no such instance.
        """
        state = self._state(instance_id)
        at = batch_trace.end if ts is None else ts
        check_time(at)
        self.record.learn(batch_trace)
        if not state.sync(batch_trace, at):
            return
        if self.level != "reuse" or instance_id in self._dirty or not self._follows(instance_id):
            self._dirty.add(instance_id)

    def _follows(self, i: int) -> bool:
        """Move a forecast on by a batch that was reported; return whether it still fits."""
        state, about, curve = self.states[i], self._about[i], self._curves[i]
        batches, steps = int(about[BATCHES]), int(about[STEPS])
        self._under_way[i] += 1
        done = self._under_way[i]
        step = done // batches
        if state.is_idle or done > self.reuse.batches * batches or step >= steps - 1:
            return False
        running = state.running.total
        most = max(self.reuse.requests, self.reuse.share * running)
        if abs(running - self._marched_running[i]) > most:
            return False
        begin, duration = curve[START, step], curve[DURATION, step]
        part = (done % batches) / batches
        about[ORIGIN] = state.boundary - (begin + part * duration)
        about[LATEST] = begin + (part + 1.0 / batches) * duration + self._delay
        waiting = state.waiting_size(self._forecasters[i].unit)
        begun = min(curve[REACH, step], self._marched_number[i])
        if begun == self._marched_number[i] and waiting > self.reuse.requests:
            return False
        about[NUMBER] = begun + waiting
        return True

    def _latest(self, i: int) -> float:
        """Return until when the first batch of a forecast goes on, as far as anybody can tell."""
        each = self._curves[i, DURATION, 0] / self._forecasters[i].batches
        return float(self._curves[i, START, 0] + each + self._delay)

    def _march(self, i: int, now: float) -> None:
        """Make the forecast of an instance anew."""
        self._march_from(self.states[i], i, now)

    def _march_from(
        self, state: InstanceState, i: int, now: float, even: float | None = None
    ) -> None:
        """Make the forecast of an instance in a state.

        Who was sent since its boundary has come by ``now`` [time], or evenly in a time ``even``.
        """
        about, of = self._about[i], self._forecasters[i]
        idle = state.is_idle
        origin = now if idle else state.boundary
        fresh = state.fresh_size(of.unit)
        rate = self._inflow.of(i) if self.arrival_rate is None else self.arrival_rate
        present = self._start.of(state, of, now, rate, even)
        self._dirty.discard(i)
        (self._short.add if self._goal < self._tokens else self._short.discard)(i)
        try:
            found = of.march(self._curves[i], present, self._goal)
            latest = self._latest(i)
            if even is None and fresh and present.now > latest:  # who was sent waits for its end
                found = of.march(self._curves[i], replace(present, now=latest), self._goal)
        except SolveError:
            self.record.failed.add(i)
            about[STEPS] = 0.0
            return
        self.record.failed.discard(i)
        about[STEPS], about[ORIGIN], about[IDLE] = found.steps, origin, float(idle)
        about[NUMBER] = found.number + (fresh if even else 0.0)
        note_march(about, found)
        about[LATEST] = self._latest(i)
        self._under_way[i], self._marched_running[i] = 0, state.running.total
        self._marched_number[i] = found.number
        self.marches += 1

    def predict(
        self,
        instance_id: int | None,
        request_meta: RequestMeta,
        ts: float,
        action_hint: str = ALL,
    ) -> Predictions:
        """Say what would happen to a request if it were sent now.

        Parameters
        ----------
        instance_id
            One instance, or None for all.
        request_meta
            The request.
        ts : [time]
            Now.
        action_hint
            ``ttft`` asks for first tokens, ``behind`` for those of the next ones too, or ``all``.

        Returns
        -------
        Predictions
            One for each instance that was asked for.

        Raises
        ------
        FluidServeError
            If there is no such instance.
        ConfigError
            If there is no such hint, or the time is none.
        """
        check_time(ts)
        if action_hint not in (TTFT_ONLY, WITH_NEXT, ALL):
            raise ConfigError("action_hint", action_hint, f"{TTFT_ONLY}, {WITH_NEXT} or {ALL}")
        if instance_id is None:
            asked = self._all
        else:
            self._state(instance_id)
            asked = self._all[instance_id : instance_id + 1]
        wanted = self._dirty | self._short if action_hint == ALL else self._dirty
        if wanted:
            self._goal = self._tokens if action_hint == ALL else self._first_tokens
            for i in wanted.intersection(asked.tolist()):
                self._march(i, ts)
        out = np.empty((asked.size, ANSWER_COLUMNS))
        prompts = np.full(asked.size, float(request_meta.prefill_length - request_meta.prefix_hit))
        tokens = None
        if action_hint == TTFT_ONLY:
            answer_ttft(self._curves, self._about, asked, prompts, ts, out)
        elif action_hint == WITH_NEXT:
            answer_behind(self._curves, self._about, asked, prompts, ts, out)
        else:
            of = self.lengths
            number = of.class_of(request_meta)
            tokens = float(of.mean[number])
            classes = np.full(asked.size, number)
            answer_all(
                self._curves, self._about, asked, prompts, classes, of.survive, of.rest, of.marks,
                of.mean, ts, out,
            )  # fmt: skip
        if self.record.failed:
            out[[i in self.record.failed for i in asked.tolist()]] = np.inf
        stale = frozenset(self.stale(ts)) if self._stale_after is not None else frozenset()
        self._last = Predictions(asked, out, tokens, self.level, request_meta, self.record, stale)
        return self._last

    @property
    def forecasts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The forecasts, and what is known besides, as :func:`scheduling.answering` reads them."""
        return self._curves, self._about

    @staticmethod
    def room_for(candidates: int) -> NDArray[np.float64]:
        """Return an array for the answers of so many candidates."""
        return np.empty((candidates, ANSWER_COLUMNS))

    @property
    def beliefs(self) -> list[InstanceState]:
        """What each instance is believed to be."""
        return self.states

    def in_system(self, ts: float) -> NDArray[np.float64]:
        """Return how many requests are believed to be on each instance, shape (N,) [requests]."""
        return np.array([each.in_system for each in self.states])

    def march_anew(self, instance_id: int) -> None:
        """Let the forecast of an instance be made anew when it is asked for next."""
        self._state(instance_id)
        self._dirty.add(instance_id)

    def forget_instance(self, instance_id: int, since: float = math.inf) -> None:
        """Let an instance be empty again, which has begun anew.

        Who was sent at ``since`` [time] or later stays, and the counts of its reports.
        """
        state = self._state(instance_id)
        self.states[instance_id] = anew = state.begun_anew(since)
        self.record.drop(set(state.request_ids).difference(anew.waiting))
        self.march_anew(instance_id)

    def _state(self, instance_id: int) -> InstanceState:
        if not 0 <= instance_id < len(self.states):
            raise FluidServeError(
                f"instance {instance_id} is not in the fleet; allowed: 0 to {len(self.states) - 1}"
            )
        return self.states[instance_id]

    def stale(self, ts: float) -> list[int]:
        """Return the instances that have work and have not reported for too long."""
        if self._stale_after is None:
            return []
        return [
            i for i, each in enumerate(self.states)
            if not each.is_idle
            and ts - max(each.last_heard, each.boundary) > self._stale_after
        ]  # fmt: skip
