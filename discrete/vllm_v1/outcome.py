"""What comes back: tokens of a batch that ended, requests that end with them, and aborts."""

from __future__ import annotations

import numpy as np

from discrete.vllm.layout import NOBODY, Event, Status
from discrete.vllm.memory import number_at
from discrete.vllm.writing import close_span, note_tokens, outcome
from discrete.vllm_v1.arrivals import let_send
from discrete.vllm_v1.memory import member, plan, request, running
from discrete.vllm_v1.pool import cache, note, release
from discrete.vllm_v1.queue import leave_hold, leave_waiting
from serving.compilation import compiled
from serving.compiled_memory import table

RUNNING, FINISHED, ABORTED = int(Status.RUNNING), int(Status.FINISHED), int(Status.ABORTED)
WAITING, PREEMPTED = int(Status.WAITING), int(Status.PREEMPTED)
LOADING, LOADED = int(Status.LOADING), int(Status.LOADED)
COMPLETE, ABORT = int(Event.COMPLETE), int(Event.ABORT)

ABORT_ROW = np.dtype([("time", np.float64), ("request", np.int64)])
"""When a client gives up, in order of time."""

_abort = table("aborts", ABORT_ROW)


@compiled
def _leave_running(s, r):
    at = 0
    while running(s, at).value != r:
        at += 1
    for i in range(at, s.running - 1):
        running(s, i).value = running(s, i + 1).value
    s.running -= 1


@compiled
def _end(s, q, r, time, status):
    """Let a request go, wherever it is."""
    if q.status == RUNNING:
        _leave_running(s, r)
    elif q.status in (LOADING, LOADED):
        leave_hold(s, r)
    else:
        leave_waiting(s, r)
    if q.status == LOADING:  # the load goes on into its blocks: they come back when it is done
        q.next = s.late_head
        s.late_head = r
        s.loading -= 1
    else:
        release(s, q)
    q.status = status
    q.done = time
    s.unfinished -= 1
    let_send(s, r, time)
    s.left += 1
    s.announce = 1
    if s.record_steps:
        close_span(s, q, r)


@compiled
def next_abort(s):
    """Return when the next client gives up; infinite if nobody does."""
    if s.abort_next == s.num_aborts:
        return np.inf
    return _abort(s, s.abort_next).time


@compiled
def cancel(s, time):
    """Abort the requests whose clients have given up; those that are gone stay as they are."""
    while next_abort(s) <= time:
        r = _abort(s, s.abort_next).request
        s.abort_next += 1
        q = request(s, r)
        if q.status in (WAITING, RUNNING, PREEMPTED, LOADING, LOADED):
            note(s, time, ABORT, r, q)
            _end(s, q, r, time, ABORTED)
            if s.log_decisions:
                outcome(s, r)


@compiled
def _accepted(s, q, r, each):
    """Return how many drafts of a request the model accepts."""
    if each.drafts == 0:
        return 0
    accepted = 0
    if each.is_real:
        accepted = number_at(s.accepts_at, (r + q.verified) % s.num_accepts).value
        accepted = min(each.drafts, accepted)
        q.verified += 1
    q.accepted += accepted
    if s.log_decisions:
        outcome(s, r)
        outcome(s, each.drafts)
        outcome(s, accepted)
    return accepted


@compiled
def _append(s, q, tokens, is_stale):
    """Append tokens one by one until the request stops; return whether it does."""
    for k in range(1, tokens + 1):
        q.length += 1
        q.generated += 1
        is_end = s.stop_token and q.generated == q.output
        if is_end or q.length >= s.max_model_len or q.generated >= q.limit:
            if not is_stale:
                q.computed -= tokens - k
            return True
    return False


@compiled
def _take_output(s, q, each, accepted, is_stale):
    """Apply the sampled tokens of one request; return whether it stops."""
    if each.drafts > 0 and not is_stale:
        rejected = each.drafts - accepted
        if q.computed > 0:
            q.computed -= rejected
        if q.placeholders > 0:
            q.placeholders -= rejected
    expected = q.placeholders > 0
    stopped = _append(s, q, 1 + accepted, is_stale)
    if not is_stale and q.placeholders > 0:
        q.placeholders -= 1 + accepted
    if not is_stale and q.status == RUNNING and (expected or s.drafts > 0):
        cache(s, q, q.computed - q.in_flight)
    return stopped


@compiled
def finish_loading(s):
    """Let the prompts be there that the connector brought during the step."""
    r = s.hold_head
    while s.loading > 0:
        q = request(s, r)
        if q.status == LOADING:
            q.status = LOADED
            s.loading -= 1
        r = q.next
    while s.late_head != NOBODY:
        q = request(s, s.late_head)
        s.late_head = q.next
        release(s, q)


@compiled
def apply_output(s, slot, time, step):
    """Apply the output of a batch, request by request in its order.

    The lists of the log show verified drafts and then those that finished; the latter are kept in
    the members until the former are written. Returns who got tokens and who finished.
    """
    size, emitting = plan(s, slot).size, 0
    for i in range(size):
        each = member(s, slot, i)
        q, r = request(s, each.request), each.request
        q.in_flight -= each.tokens
        is_stale = q.stale > 0
        if is_stale:
            q.stale -= each.tokens
        each.tokens = 0  # from here on: whether it finished
        if q.status in (FINISHED, ABORTED):
            continue
        if not each.samples:
            continue
        emitting += 1
        before = q.generated
        stopped = _take_output(s, q, each, _accepted(s, q, r, each), is_stale)
        if not q.first_token == q.first_token:
            q.first_token = time
        if s.record_steps:
            note_tokens(s, q, r, step, before)
        if stopped:
            note(s, time, COMPLETE, r, q)
            _end(s, q, r, time, FINISHED)
            s.finished += 1
            each.tokens = 1
        elif not s.asynchronous and s.drafts > 0 and q.status == RUNNING and not q.is_chunk:
            q.spec = s.drafts
    if emitting > 0:
        s.last_emitting = step
    finish_loading(s)
    finished = 0
    for i in range(size):
        each = member(s, slot, i)
        if each.tokens:
            finished += 1
            if s.log_decisions:
                outcome(s, each.request)
    return emitting, finished
