"""What a vLLM engine can tell of itself while others decide whom to send to it, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from discrete._report import BATCH_REPORT
from discrete.vllm.layout import REQUEST_FLOATS, REQUEST_INTS, Event, record
from discrete.vllm.memory import arrival_time, span_row, step_row
from serving.compilation import compiled
from serving.compiled_memory import record_at

EVICTS = (Event.PREEMPT, Event.SWAP_OUT)
"""Events by which a request leaves RUNNING before its end."""

_request = record_at(record(REQUEST_FLOATS, REQUEST_INTS))
"""The fields with which the request of every engine begins."""


@compiled
def to_last_end(s, report, time):
    """Count the steps that have ended by ``time``; return when one last ended or was decided."""
    k = report.batches
    while k < s.committed and step_row(s, k).end <= time:
        k += 1
    report.batches = k
    if k < s.steps and step_row(s, k).scheduled <= time:
        return step_row(s, k).scheduled
    return step_row(s, k - 1).end if k > 0 else 0.0


@compiled
def look(s, report, time, stride):
    """Write the state at ``time``, at which the last step has ended that the report counts.

    Parameters
    ----------
    s, report : record
    time : [time]
    stride
        Bytes of a request's record.
    """
    k = report.batches
    left = step_row(s, k - 1).left if k > 0 else 0
    report.time, report.left = time, left
    report.batch_start, report.batch_duration = np.nan, 0.0
    report.running = report.swapped = report.memory = 0
    if k < s.steps and step_row(s, k).scheduled <= time:
        row = step_row(s, k)
        report.batch_start, report.batch_duration = row.start, row.duration
        report.running, report.swapped = row.running, row.swapped
        report.memory, report.evicted = row.blocks * s.block_size, row.evicted
    elif k > 0:
        row = step_row(s, k - 1)
        report.running, report.swapped = row.running_after, row.swapped_after
        report.memory, report.evicted = row.blocks_after * s.block_size, row.evicted
    while report.arrived < s.total and arrival_time(s, report.arrived) <= time:
        report.arrived_prompts += _request(s.requests_at + report.arrived * stride).prompt
        report.arrived += 1
    report.waiting = report.arrived - left - report.running - report.swapped
    report.waiting_prompts = report.pending_prompts = 0
    oldest = report.arrived
    for r in range(report.oldest, report.arrived):
        q = _request(s.requests_at + r * stride)
        if not (q.first_token <= time or q.done <= time):
            oldest = min(oldest, r)
            report.pending_prompts += q.prompt
            if not q.first_sched <= time:
                report.waiting_prompts += q.prompt
    report.oldest = oldest


@compiled
def members_of(s, batch, oldest, started, finished, stride):
    """List who got the first and the last token with a step; see :class:`discrete.Reporting`."""
    end = step_row(s, batch).end
    before = step_row(s, batch - 1).end if batch > 0 else -1.0
    starts = ends = 0
    keep = s.arrived
    for r in range(oldest, s.arrived):
        q = _request(s.requests_at + r * stride)
        if before < q.first_token <= end:
            started[starts] = r
            starts += 1
        if before < q.done <= end:
            finished[ends] = r
            ends += 1
        elif not q.done <= end and keep == s.arrived:
            keep = r
    return starts, ends, keep


@compiled
def token_since_of(s, number, batch, span, stride):
    """Return the first step, from one on, that gave a request a token; -1 if none has yet.

    Parameters
    ----------
    s : record
    number
        Of the request.
    batch
        Not before this step.
    span
        No span before this one ends as late.
    stride
        Bytes of a request's record.
    """
    for i in range(span, s.spans):
        row = span_row(s, i)
        if row.request == number and row.first_batch >= batch:
            return row.first_batch
    began = _request(s.requests_at + number * stride).span_first
    return began if began >= batch else -1


def readers(stride: int) -> tuple[Any, Any]:
    """Return ``members`` and ``token_since`` of :class:`discrete.Reporting` for an engine.

    Parameters
    ----------
    stride
        Bytes of a request's record of the engine.
    """

    @compiled
    def members(state, batch, oldest, started, finished):
        return members_of(state[0], batch, oldest, started, finished, stride)

    @compiled
    def token_since(state, number, batch, span):
        return token_since_of(state[0], number, batch, span, stride)

    return members, token_since


class TellsOfItself:
    """The part of a vLLM engine that :class:`discrete.Reporting` is about."""

    counts_newcomers = False

    state: NDArray
    instance: Any
    sinks: dict[str, NDArray]
    _arrivals: NDArray[np.float64]

    @property
    def counts_returned(self) -> bool:
        """Whether those that decode in a batch have those in it that come back to it."""
        return getattr(self.instance, "preemption_mode", "recompute") == "swap"

    @property
    def num_spans(self) -> int:
        """Spans written so far."""
        return int(self.state["spans"][0])

    def victims(self, event: int) -> tuple[NDArray[np.int64], int]:
        """Return who was evicted according to the events from one on, and their number."""
        count = int(self.state["events"][0])
        new = self.sinks["events"][event:count]
        return new["request"][np.isin(new["kind"], EVICTS)], count

    def batch_rows(self, first: int, last: int) -> NDArray:
        """Return what is told of steps ``first`` to ``last`` - 1."""
        told, block_size = self.sinks["rows"][first:last], self.instance.block_size
        found = np.zeros(told.size, BATCH_REPORT)
        found["end"], found["duration"] = told["end"], told["duration"]
        found["prefill_tokens"] = told["prefill_tokens"]
        found["decoded"] = told["size"] - told["prefills"]
        found["running"] = told["running_after"]
        arrivals = self._arrivals[: int(self.state["total"][0])]
        arrived = np.searchsorted(arrivals, told["end"], side="right")
        found["waiting"] = arrived - told["left"] - told["running_after"] - told["swapped_after"]
        found["memory"], found["evicted"] = told["blocks_after"] * block_size, told["evicted"]
        return found
