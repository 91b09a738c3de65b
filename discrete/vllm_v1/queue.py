"""The waiting queue: a linked list in the order in which requests are looked at.

Requests whose prompts the connector brings in stand in a list of their own, ahead of it.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
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
def _goes_before(q, other):
    return q.priority < other.priority or (q.priority == other.priority and q.rank < other.rank)


@compiled
def _insert_by_rank(s, r):
    """Insert a request where its priority, arrival and number put it."""
    q, before = request(s, r), s.tail
    while before != NOBODY and _goes_before(q, request(s, before)):
        before = request(s, before).previous
    _insert_after(s, r, before)


@compiled
def join_waiting(s, r):
    """Let a request that arrives queue up."""
    if s.by_priority:
        _insert_by_rank(s, r)
    else:
        _insert_after(s, r, s.tail)


@compiled
def rejoin_waiting(s, r):
    """Let a preempted request queue up: first, or where its priority puts it."""
    if s.by_priority:
        _insert_by_rank(s, r)
    else:
        _insert_after(s, r, NOBODY)


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
