"""What the control plane knows of one instance, from what was sent there and what it reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

import numpy as np
from numpy.typing import NDArray

from scheduling.computed import left_of_begun, part_of, without
from scheduling.messages import BatchTrace, RequestMeta
from scheduling.running_set import RunningSet
from scheduling.sync_counts import SyncCounts
from scheduling.waiting import Waiting, size_of

MOST_GAPS = 1000
"""Batches of which a report may still come late; of older ones only ends of requests are taken."""


@dataclass(slots=True, eq=False)
class InstanceState:
    """Pattern of one instance: no blocks, no requests but their place in the order.

    Attributes
    ----------
    waiting
        Requests without a first token, by id, in the order of arrival.
    stopped
        Tokens since the latest start, tokens ever, class and prompt of requests that were evicted,
        by id.
    computed_again : [tokens]
        Prompts and answers of theirs that batches have computed again since.
    queue, fresh
        Pattern of those who waited at the boundary, and ids of those sent after it: they do not
        take part in the batch under way.
    waiting_tokens, computed_ahead : [tokens]
        Prompts that wait, less what is expected in the prefix cache, and what batches have computed
        of them.
    boundary : [time]
        End of the last batch known, or when an idle instance got work.
    batch_id
        Number of the last batch known, -1 before.
    gaps
        Numbers of batches before the last one known whose reports have not come.
    restarts
        Whether who was evicted decodes its tokens again.
    in_parts
        Whether those who run are an expectation: a request counts as the chance that it is there.
    """

    running: RunningSet = field(default_factory=RunningSet)
    waiting: dict[int, Waiting] = field(default_factory=dict)
    stopped: dict[int, tuple[float, float, int, int]] = field(default_factory=dict)
    queue: RunningSet = field(default_factory=RunningSet)
    fresh: dict[int, None] = field(default_factory=dict)
    counts: SyncCounts = field(default_factory=SyncCounts)
    waiting_tokens: float = 0.0
    computed_ahead: float = 0.0
    computed_again: float = 0.0
    boundary: float = 0.0
    batch_id: int = -1
    last_heard: float = -math.inf
    last_duration: float = math.nan
    kv_used: float = math.nan
    num_running: float = 0.0
    gaps: list[int] = field(default_factory=list)
    restarts: bool = False
    in_parts: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody is there, as far as anybody knows."""
        return not self.waiting and not self.stopped and self.running.total <= 1e-9

    @property
    def in_system(self) -> float:
        """Requests that are believed to be there [requests]."""
        return len(self.waiting) + len(self.stopped) + self.running.total

    def has(self, request_id: int) -> bool:
        """Return whether a request is there, as far as was reported."""
        return any(request_id in each for each in (self.waiting, self.running, self.stopped))

    @property
    def request_ids(self) -> list[int]:
        """Who is there and known by name."""
        return [*self.waiting, *self.running, *self.stopped]

    def begun_anew(self, since: float) -> InstanceState:
        """Return the state of an empty instance, but for those sent at ``since`` [time] or later.

        What was counted of its reports stays.
        """
        out = InstanceState(counts=self.counts, restarts=self.restarts)
        for request_id, each in self.waiting.items():
            if each.at >= since:
                out.enqueue(RequestMeta(request_id, each.prompt), each.of, each.at)
        return out

    def enqueue(self, request: RequestMeta, of: int, at: float) -> None:
        """Note that a request was sent; one that is there already is not counted twice.

        Parameters
        ----------
        request
            The request.
        of
            Class of its lengths.
        at : [time]
            When it was sent.
        """
        if self.has(request.request_id):
            self.counts.duplicate += 1
            return
        if self.is_idle or at <= self.boundary:
            self.boundary = max(self.boundary, at)
            self.queue.put(request.request_id, of, 0.0)
        else:
            self.fresh[request.request_id] = None
        prompt = request.prefill_length - request.prefix_hit
        self.waiting[request.request_id] = Waiting(prompt, of, at)
        self.waiting_tokens += prompt

    def sync(self, trace: BatchTrace, at: float) -> bool:
        """Take a report; return whether it was a new one, the next or a later batch.

        Parameters
        ----------
        trace
            The report.
        at : [time]
            When it came in.
        """
        is_newer = trace.batch_id > self.batch_id
        self.last_heard = at if is_newer else max(self.last_heard, at)
        if trace.batch_id == self.batch_id:
            self.counts.duplicate += 1
            return False
        if trace.batch_id < self.batch_id:
            self._take_late(trace)
            return False
        missed = self._miss(trace.batch_id)
        if missed:
            self.running.age(math.inf, missed)
        for request_id in trace.preempted:
            self._stop(request_id)
        self._compute(trace)
        for request_id in (*trace.resumed, *trace.started):
            was = self.stopped.pop(request_id, None)
            if was is not None:  # who never had a token still waits for the first
                age, furthest, of, prompt = was
                self.computed_again = max(0.0, self.computed_again - prompt - age)
                age = 0.0 if self.restarts else age
                self.running.put(request_id, of, age, furthest, prompt)
        self.running.age(trace.decode_len)
        self._begin(trace.started)
        self._leave(trace)
        self._join(trace.end)
        self._set_right(trace)
        self.counts.applied += 1
        self.batch_id, self.boundary = trace.batch_id, trace.end
        self.last_duration = trace.duration
        self.kv_used = math.nan if trace.kv_used is None else trace.kv_used
        self.num_running = trace.num_running or 0.0
        self._bound()
        return True

    def _bound(self) -> None:
        """Let no more be computed than prompts that could be, whatever an instance says."""
        if self.computed_ahead:
            known = self.waiting_tokens - self.fresh_size(1.0)
            self.computed_ahead = min(self.computed_ahead, known)
        if self.computed_again:
            again = sum(each for _, each in self._again())
            self.computed_again = min(self.computed_again, again)

    def _miss(self, batch_id: int) -> int:
        """Count the reports that have not come before one, and return how many."""
        missed = batch_id - self.batch_id - 1 if self.batch_id >= 0 else 0
        self.counts.lost += missed
        first = max(self.batch_id + 1, batch_id - MOST_GAPS)
        if missed:
            self.gaps = [*self.gaps, *range(first, batch_id)][-MOST_GAPS:]
        return missed

    def go_on_from(self, belief: InstanceState, batch_id: int) -> None:
        """Be what is believed when a batch begins that is reported, while those before were not."""
        self._miss(batch_id)
        self.batch_id, self.boundary = batch_id - 1, belief.boundary
        self.running, self.stopped = belief.running, belief.stopped
        self.waiting, self.queue, self.fresh = belief.waiting, belief.queue, belief.fresh
        self.waiting_tokens, self.computed_ahead = belief.waiting_tokens, belief.computed_ahead
        self.computed_again = belief.computed_again
        self.in_parts = True

    def _take_late(self, trace: BatchTrace) -> None:
        """Take beginnings and ends from the report of a batch that is not the latest."""
        self.counts.late += 1
        if trace.batch_id in self.gaps:
            self.gaps.remove(trace.batch_id)
            self.counts.lost -= 1
            self._compute(trace)
            since = self.batch_id - trace.batch_id
            for request_id in trace.started:
                entry = self._pop_waiting(request_id)
                if entry is not None:
                    self.running.put(request_id, entry.of, 1.0 + since, 0.0, entry.prompt)
        self._leave(trace)
        self._bound()

    def _stop(self, request_id: int) -> None:
        """Let a request be evicted; one without a first token loses what was computed of it."""
        if request_id in self.running:
            self.stopped[request_id] = self.running.where(request_id)
            self.running.end(request_id)
        elif request_id in self.waiting:
            self.computed_ahead = without(self._prompts(), self.computed_ahead, request_id)
        elif request_id in self.stopped:
            self.computed_again = 0.0

    def _compute(self, trace: BatchTrace) -> None:
        """Note what a batch computed of prompts: of whom, tells the order of the queue.

        Who got a first token had all of its prompt computed, and a prompt that was begun goes on.
        Then come those who were evicted, who compute prompt and answer again, and then all others.
        """
        tokens = float(trace.prefill_len)
        if self.stopped:
            began = sum(self.waiting[i].prompt for i in trace.started if i in self.waiting)
            own = max(0.0, began - self.computed_ahead)
            if not began:
                own = left_of_begun((each for _, each in self._prompts()), self.computed_ahead)
            own = min(tokens, own)
            again = min(tokens - own, float(self.again_tokens().sum()))
            self.computed_ahead += own
            self.computed_again += again
            tokens -= own + again
        self.computed_ahead += tokens

    def again_tokens(self) -> NDArray[np.float64]:
        """Return what each who was evicted still has to compute again, shape (S,) [tokens]."""
        tokens = np.array([each for _, each in self._again()], float)
        done = np.minimum(np.cumsum(tokens), self.computed_again)
        return tokens - np.diff(done, prepend=0.0)

    def _again(self) -> Iterator[tuple[int, float]]:
        """Go through those who were evicted, with their prompts and answers [tokens]."""
        return ((key, prompt + age) for key, (age, _, _, prompt) in self.stopped.items())

    def leave_unheard(self, request_ids: Iterable[int]) -> int:
        """Let requests go that are here, as far as was reported; return how many there were.

        Who runs goes only where that is in parts: then nobody may ever report its end.
        """
        gone = sum(
            self._pop_waiting(each) is not None or (self.in_parts and self.running.end(each))
            for each in request_ids
        )
        if not self.waiting:
            self.computed_ahead = 0.0
        return gone

    def _prompts(self) -> Iterator[tuple[int, int]]:
        """Go through those who wait, with their prompts [tokens], in the order of arrival."""
        return ((key, each.prompt) for key, each in self.waiting.items())

    def _pop_waiting(self, request_id: int) -> Waiting | None:
        """Take a request whose prompt was computed out of those who wait; None if it is none."""
        entry = self._drop_waiting(request_id)
        if entry is not None:
            self.computed_ahead = max(0.0, self.computed_ahead - entry.prompt)
        return entry

    def _drop_waiting(self, request_id: int) -> Waiting | None:
        """Take a request out of those who wait; None where it is not among them."""
        entry = self.waiting.pop(request_id, None)
        if entry is not None:
            self.queue.end(request_id)
            self.fresh.pop(request_id, None)
            self.waiting_tokens -= entry.prompt
        return entry

    @property
    def is_sure(self) -> bool:
        """Whether every report came, in its turn."""
        return not self.counts.lost and not self.counts.late

    def _begin(self, request_ids: tuple[int, ...]) -> None:
        known = []
        if request_ids and not self.is_sure:
            known += self._begun_unheard(set(request_ids))
        for request_id in dict.fromkeys(request_ids):
            entry = self._pop_waiting(request_id)
            if entry is None:
                if request_id in self.running:
                    continue
                self.counts.unknown += 1
                known.append((request_id, 0, 0))
                continue
            known.append((request_id, entry.of, entry.prompt))
        self.running.begin(known)

    def _begun_unheard(self, request_ids: set[int]) -> list[tuple[int, int, int]]:
        """Return who must have had a first token in a report that got lost, and let them go on.

        First tokens come in the order of arrival, so whoever waits before one who has begun has
        begun as well, or is gone.
        """
        before, passed = [], 0
        for request_id in self.waiting:
            if request_id in request_ids:
                passed = len(before)
            else:
                before.append(request_id)
        found = []
        for request_id in before[:passed]:
            entry = self._drop_waiting(request_id)
            assert entry is not None
            found.append((request_id, entry.of, entry.prompt))
        self.counts.silent_corrections += len(found)
        return found

    def _join(self, boundary: float) -> None:
        """Let those join the queue who were sent up to a boundary."""
        joined = takewhile(lambda each: self.waiting[each].at <= boundary, self.fresh)
        for request_id in list(joined):
            self.queue.put(request_id, self.waiting[request_id].of, 0.0)
            del self.fresh[request_id]

    def _leave(self, trace: BatchTrace) -> None:
        """Let the requests go that a report says have ended or were given up."""
        for request_id in (*trace.finished, *trace.cancelled):
            if self.running.end(request_id):
                continue
            if request_id in self.waiting:
                self.computed_ahead -= part_of(self._prompts(), self.computed_ahead, request_id)
                self._drop_waiting(request_id)
            elif request_id in self.stopped:
                self.computed_again -= part_of(self._again(), self.computed_again, request_id)
                del self.stopped[request_id]
            else:
                self.counts.unknown += 1

    def _set_right(self, trace: BatchTrace) -> None:
        """Believe the counts of an instance where reports were lost."""
        if self.is_sure and not self.in_parts:
            return
        if trace.num_waiting is None or trace.num_running is None:
            return
        there = trace.num_waiting + trace.num_running
        sent_since = sum(1 for each in self.waiting.values() if each.at > trace.end)
        if self.in_parts:
            self._set_parts_right(there - len(self.stopped), sent_since)
            return
        excess = len(self.waiting) + len(self.running) + len(self.stopped) - sent_since - there
        if excess <= 0:
            return
        # what ended unheard of is among the oldest that run, for most of them
        for request_id in self.running.oldest(excess):
            self.running.end(request_id)
            self.counts.silent_corrections += 1

    def _set_parts_right(self, there: int, sent_since: int) -> None:
        """Let as many be there as an instance says, but for those sent since its report."""
        waited = len(self.waiting) - sent_since
        for request_id in list(islice(self.waiting, max(waited - there, 0))):
            self._pop_waiting(request_id)
            self.counts.silent_corrections += 1
            waited -= 1
        target = float(max(there - waited, 0))
        self.counts.silent_corrections += abs(float(self.running.total) - target)
        self.running.scale(target)

    def waiting_size(self, unit: float) -> float:
        """Return who waits [requests], as counted in the order of arrival.

        Parameters
        ----------
        unit : [tokens]
            Prompt that counts as one request; 0 where each request counts as one.
        """
        if unit <= 0.0:
            return float(len(self.waiting))
        return max(0.0, self.waiting_tokens - self.computed_ahead) / unit

    def fresh_size(self, unit: float) -> float:
        """Return who was sent since the boundary [requests], counted alike."""
        return sum(size_of(self.waiting[each], unit) for each in self.fresh)
