"""The waiting queue: a linked list in the order in which requests are looked at.

Requests whose prompts the connector brings in stand in a list of their own, ahead of it.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm_v1.levels import count_waiting, last_before, last_of
from discrete.vllm_v1.memory import request
from serving.compilation import compiled


@compiled
def _insert_after(s, r, before):
    q = request(s, r)
    after = s.head if before == NOBODY else request(s, before).next
    q.previous, q.next = before, after
    if before == NOBODY:
        s.head = r
    else:
        request(s, before).next = r
    if after == NOBODY:
        s.tail = r
    else:
        request(s, after).previous = r
    s.waiting += 1


@compiled
def join_waiting(s, r):
    """Let a request that arrives queue up: last, or last of its priority."""
    if not s.by_priority:
        _insert_after(s, r, s.tail)
        return
    level = request(s, r).level
    last = last_of(s, level)
    _insert_after(s, r, last_before(s, level) if last.value == NOBODY else last.value)
    last.value = r
    count_waiting(s, level, 1)


@compiled
def rejoin_waiting(s, r):
    """Let a preempted request queue up: first, or among those of its priority by its arrival."""
    if not s.by_priority:
        _insert_after(s, r, NOBODY)
        return
    q = request(s, r)
    before = last_before(s, q.level)
    after = s.head if before == NOBODY else request(s, before).next
    while after != NOBODY and _goes_before(request(s, after), q):
        before, after = after, request(s, after).next
    last = last_of(s, q.level)
    if last.value == NOBODY or last.value == before:
        last.value = r
    _insert_after(s, r, before)
    count_waiting(s, q.level, 1)


@compiled
def _goes_before(q, other):
    """Return whether a request of the same priority came before another."""
    return q.level == other.level and q.rank < other.rank


@compiled
def _leave_level(s, q, r):
    last = last_of(s, q.level)
    if last.value == r:
        alone = q.previous == NOBODY or request(s, q.previous).level != q.level
        last.value = NOBODY if alone else q.previous
    count_waiting(s, q.level, -1)


@compiled
def _bridged(s, q):
    """Link the neighbours of a request in its list to each other, and return them."""
    before, after = q.previous, q.next
    if before != NOBODY:
        request(s, before).next = after
    if after != NOBODY:
        request(s, after).previous = before
    return before, after


@compiled
def leave_waiting(s, r):
    """Take a request out of the queue, wherever it stands."""
    q = request(s, r)
    if s.by_priority:
        _leave_level(s, q, r)
    before, after = _bridged(s, q)
    if before == NOBODY:
        s.head = after
    if after == NOBODY:
        s.tail = before
    s.waiting -= 1
    _undefer(s, q)


@compiled
def _undefer(s, q):
    s.deferred -= q.is_deferred
    q.is_deferred = 0


@compiled
def defer(s, q):
    """Note that a request was passed over."""
    s.deferred += 1 - q.is_deferred
    q.is_deferred = 1


@compiled
def hold(s, r):
    """Let a request that has left the queue stand with those whose prompts come in."""
    q = request(s, r)
    q.previous, q.next = s.hold_tail, NOBODY
    if s.hold_tail == NOBODY:
        s.hold_head = r
    else:
        request(s, s.hold_tail).next = r
    s.hold_tail = r
    s.held += 1
    s.waiting += 1


@compiled
def leave_hold(s, r):
    """Take a request from those whose prompts come in."""
    q = request(s, r)
    before, after = _bridged(s, q)
    if before == NOBODY:
        s.hold_head = after
    if after == NOBODY:
        s.hold_tail = before
    s.held -= 1
    s.waiting -= 1
    _undefer(s, q)
