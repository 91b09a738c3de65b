"""RUNNING as a linked list in entry order, and the execution batch as a prefix of it.

All members of the prefix advance together, so their k is kept as ``batch - k`` and the batch with
which each finishes is known when it enters: it waits in the bucket of that batch. Entering appends
to a bucket, and members enter the prefix in RUNNING order, so a bucket is in RUNNING order too.
"""

from __future__ import annotations

from discrete.decode_node.layout import NOBODY, Kind
from discrete.decode_node.memory import event_row, history, request, ring_slot, span_row
from serving.compilation import compiled

COMPLETE = int(Kind.COMPLETE)


@compiled
def enter_running(s, r):
    """Append ``r`` to the tail of RUNNING, holding p + k tokens."""
    q = request(s, r)
    q.previous = s.tail
    q.next = NOBODY
    if s.tail == NOBODY:
        s.head = r
    else:
        request(s, s.tail).next = r
    s.tail = r
    s.running += 1
    s.used += q.prefill + q.progress


@compiled
def unlink(s, r):
    """Take ``r`` out of the linked list RUNNING."""
    q = request(s, r)
    before, after = q.previous, q.next
    if before == NOBODY:
        s.head = after
    else:
        request(s, before).next = after
    if after == NOBODY:
        s.tail = before
    else:
        request(s, after).previous = before
    s.running -= 1


@compiled
def first_idle(s):
    """Return the first member of RUNNING outside the prefix."""
    return s.head if s.last_executing == NOBODY else request(s, s.last_executing).next


@compiled
def _join_prefix(s, r):
    q = request(s, r)
    s.last_executing = r
    s.executing += 1
    s.cost += q.prefill + q.progress + 1
    q.stay = s.batch
    q.progress = s.batch - q.progress
    q.later = NOBODY
    bucket = ring_slot(s, q.progress + q.decode)
    if bucket.value == NOBODY:
        bucket.value = r
        q.earlier = r
    else:
        first = request(s, bucket.value)
        request(s, first.earlier).later = r
        q.earlier = first.earlier
        first.earlier = r


@compiled
def _record_span(s, q, r):
    row = span_row(s, s.spans)
    row.request = r
    row.first_batch = q.stay
    row.last_batch = s.batch - 1
    row.first_token = q.stay - q.progress
    s.spans += 1


@compiled
def leave_prefix(s, r):
    """Freeze the progress of ``r``, which executed in the last batch and does not finish."""
    q = request(s, r)
    if s.record_batches:
        _record_span(s, q, r)
    bucket, after = ring_slot(s, q.progress + q.decode), q.later
    if bucket.value == r:
        bucket.value = after
        if after != NOBODY:
            request(s, after).earlier = q.earlier
    else:
        request(s, q.earlier).later = after
        follower = bucket.value if after == NOBODY else after
        request(s, follower).earlier = q.earlier
    q.progress = s.batch - q.progress
    if s.track_last_batch:
        history(s, r).last_batch = s.batch
    s.cost -= q.prefill + q.progress + 1
    s.executing -= 1
    if s.last_executing == r:
        s.last_executing = q.previous


@compiled
def fit_prefix(s):
    """Make the execution batch the longest prefix within B; return its first new member."""
    while s.cost > s.B and s.executing > 1:
        leave_prefix(s, s.last_executing)
    newcomer = NOBODY
    while True:
        r = first_idle(s)
        if r == NOBODY:
            return newcomer
        q = request(s, r)
        if s.executing > 0 and s.cost + q.prefill + q.progress + 1 > s.B:
            return newcomer
        if newcomer == NOBODY:
            newcomer = r
        _join_prefix(s, r)


@compiled
def complete(s):
    """Let everyone who produced the last token with the last batch go."""
    bucket = ring_slot(s, s.batch)
    r = bucket.value
    bucket.value = NOBODY
    while r != NOBODY:
        q = request(s, r)
        if s.record_batches:
            _record_span(s, q, r)
        if s.record_events:
            log(s, s.time, COMPLETE, r, q.decode)
        held = q.prefill + q.decode
        s.cost -= held + 1
        s.used -= held
        s.executing -= 1
        if s.last_executing == r:
            s.last_executing = q.previous
        unlink(s, r)
        q.completion = s.time
        s.completed += 1
        r = q.later


@compiled
def log(s, time, kind, r, decoded):
    """Append an event; the caller has made sure there is room."""
    row = event_row(s, s.events)
    row.time = time
    row.kind = kind
    row.request = r
    row.decoded = decoded
    row.memory = s.used
    s.events += 1
