"""What a decode node can tell of itself while others decide whom to send to it, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from discrete._engine import Stop
from discrete._report import BATCH_REPORT, told_at
from discrete.decode_node.kernel import advance
from discrete.decode_node.layout import FUEL, NOBODY, UNLIMITED, Kind
from discrete.decode_node.memory import arrival_time, batch_row, prefill_length, request, span_row
from serving.compilation import compiled

UNTIL, FINISHED = int(Stop.UNTIL), int(Stop.FINISHED)
EVICTS = (Kind.SWAP_OUT, Kind.SACRIFICE)
"""Events by which a request leaves RUNNING before its end."""


@compiled
def _to_last_end(s, report, time):
    """Count the batches that have ended by ``time``; return when the last one did or began one."""
    k = report.batches
    while k < s.batches and batch_row(s, k).start + batch_row(s, k).duration <= time:
        k += 1
    report.batches = k
    if k < s.batches and batch_row(s, k).start <= time:
        return batch_row(s, k).start
    return batch_row(s, k - 1).start + batch_row(s, k - 1).duration if k > 0 else 0.0


@compiled
def _look(s, report, time):
    """Write the state at ``time``, at which the last batch has ended that the report counts."""
    k = report.batches
    left = batch_row(s, k - 1).completed if k > 0 else 0
    report.time = time
    report.left = left
    report.batch_start, report.batch_duration = np.nan, 0.0
    report.running = report.swapped = report.memory = 0
    if k < s.batches and batch_row(s, k).start <= time:
        row = batch_row(s, k)
        report.batch_start, report.batch_duration = row.start, row.duration
        report.running, report.swapped = row.running, row.swapped
        report.memory, report.evicted = row.memory, row.evicted
    elif k > 0:
        row = batch_row(s, k - 1)
        before = batch_row(s, k - 2).completed if k > 1 else 0
        report.running, report.swapped = row.running - (left - before), row.swapped
        report.memory, report.evicted = row.memory_after, row.evicted
    while report.arrived < s.total and arrival_time(s, report.arrived) <= time:
        report.arrived_prompts += prefill_length(s, report.arrived)
        report.arrived += 1
    report.waiting = report.arrived - left - report.running - report.swapped
    report.waiting_prompts = report.pending_prompts = 0
    oldest = report.arrived
    for r in range(report.oldest, report.arrived):
        known = r < s.arrived
        if not known or not request(s, r).first_token <= time:
            oldest = min(oldest, r)
            report.pending_prompts += prefill_length(s, r)
            if not known or not request(s, r).first_enter <= time:
                report.waiting_prompts += prefill_length(s, r)
    report.oldest = oldest


@compiled
def refresh(states, reports, where, first, now, delay, period):
    """Advance nodes to ``now`` and write what each tells there; see :class:`discrete.Reporting`.

    Returns
    -------
    int
        The first node, from ``first`` on, that its engine has to advance in Python; else their
        number.
    """
    for i in range(first, states.size):
        s = states[i]
        if s.time < now:
            stop = advance(states[i : i + 1], now, UNLIMITED, FUEL)
            if stop != UNTIL and stop != FINISHED:
                return i
        report = reports[where[i]]
        time = told_at(now, delay, period)
        if time >= report.time:
            told = _to_last_end(s, report, time)
            _look(s, report, told if period < 0 else time)
    return states.size


@compiled
def members(state, batch, oldest, started, finished):
    """List who got the first and who the last token with a batch.

    Parameters
    ----------
    state : shape (1,)
    batch
        Its number.
    oldest
        Nobody before this request is still here.
    started, finished : shape (R,)
        Written to from the front.

    Returns
    -------
    tuple of int
        Length of both lists, and ``oldest`` after the batch.
    """
    s = state[0]
    row = batch_row(s, batch)
    end, before = row.start + row.duration, row.start
    starts = ends = 0
    keep = s.arrived
    for r in range(oldest, s.arrived):
        q = request(s, r)
        if before < q.first_token <= end:
            started[starts] = r
            starts += 1
        if before < q.completion <= end:
            finished[ends] = r
            ends += 1
        elif not q.completion <= end and keep == s.arrived:
            keep = r
    return starts, ends, keep


@compiled
def token_since(state, number, batch, span):
    """Return the first batch, from one on, that gave a request a token; -1 if none has yet.

    Parameters
    ----------
    state : shape (1,)
    number
        Of the request.
    batch
        Not before this one.
    span
        No span before this one ends as late.
    """
    s = state[0]
    for i in range(span, s.spans):
        row = span_row(s, i)
        if row.request == number and row.first_batch >= batch:
            return row.first_batch
    r = s.last_executing
    while r != NOBODY:
        if r == number:
            return request(s, r).stay
        r = request(s, r).previous
    return -1


class TellsOfItself:
    """The part of the engine that :class:`discrete.Reporting` is about."""

    counts_newcomers = True
    counts_returned = True

    state: NDArray
    batches: NDArray
    events: NDArray
    _columns: list[NDArray]

    refresh = staticmethod(refresh)
    members = staticmethod(members)
    token_since = staticmethod(token_since)

    @property
    def num_spans(self) -> int:
        """Spans written so far."""
        return int(self.state["spans"][0])

    def victims(self, event: int) -> tuple[NDArray[np.int64], int]:
        """Return who was evicted according to the events from one on, and their number."""
        count = int(self.state["events"][0])
        new = self.events[event:count]
        return new["request"][np.isin(new["kind"], EVICTS)], count

    def batch_rows(self, first: int, last: int) -> NDArray:
        """Return what is told of batches ``first`` to ``last`` - 1."""
        told = self.batches[first:last]
        before = self.batches["completed"][max(first - 1, 0) : last - 1]
        if first == 0:
            before = np.append(0, before)[: told.size]
        found = np.zeros(told.size, BATCH_REPORT)
        found["end"] = told["start"] + told["duration"]
        found["duration"], found["decoded"] = told["duration"], told["size"]
        found["running"] = told["running"] - (told["completed"] - before)
        arrivals = self._columns[0][: int(self.state["total"][0])]
        arrived = np.searchsorted(arrivals, found["end"], side="right")
        found["waiting"] = arrived - told["completed"] - found["running"] - told["swapped"]
        found["memory"], found["evicted"] = told["memory_after"], told["evicted"]
        return found
