"""WAITING under each queue policy, and SWAPPED.

FCFS needs no storage: the sacrificed are a linked stack at the head, the rest a range of the
table. Keyed policies keep a binary heap on (key, position in WAITING); a user's policy may look at
the clock, so its requests are kept in a plain list and selected anew.
"""

from __future__ import annotations

from discrete.decode_node.layout import NOBODY, Queue
from discrete.decode_node.memory import history, request, user_key_slot, waiting_slot
from discrete.decode_node.policies import user_key
from serving.compilation import compiled

FCFS, USER = int(Queue.FCFS), int(Queue.USER)


@compiled
def waiting_count(s):
    """Return the number of requests in WAITING."""
    return s.arrived - s.completed - s.running - s.swapped


@compiled
def _precedes(s, a, b):
    one, other = history(s, a), history(s, b)
    return one.key < other.key or (one.key == other.key and one.position < other.position)


@compiled
def push(s, size, r, position):
    """Put ``r`` among the ``size`` that wait; its place among equals is ``position``."""
    history(s, r).position = position
    i = size
    if s.queue != USER:
        while i > 0:
            parent = (i - 1) >> 1
            if not _precedes(s, r, waiting_slot(s, parent).value):
                break
            waiting_slot(s, i).value = waiting_slot(s, parent).value
            i = parent
    waiting_slot(s, i).value = r


@compiled
def _pop(s, size):
    """Take the root out of the heap of ``size``."""
    r, i = waiting_slot(s, size - 1).value, 0
    while True:
        child = 2 * i + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and _precedes(
            s, waiting_slot(s, child + 1).value, waiting_slot(s, child).value
        ):
            child += 1
        if not _precedes(s, waiting_slot(s, child).value, r):
            break
        waiting_slot(s, i).value = waiting_slot(s, child).value
        i = child
    waiting_slot(s, i).value = r


@compiled
def rank_by_user(s):
    """Evaluate the user's queue policy for everyone in WAITING, at the present time."""
    for i in range(waiting_count(s)):
        r = waiting_slot(s, i).value
        last = history(s, r).last_batch
        user_key_slot(s, i).value = user_key(s, s.queue_address, r, 0, last)


@compiled
def _first_by_user(s, size):
    best = 0
    for i in range(1, size):
        key, least = user_key_slot(s, i).value, user_key_slot(s, best).value
        if key < least:
            best = i
        elif key == least:
            one = history(s, waiting_slot(s, i).value)
            if one.position < history(s, waiting_slot(s, best).value).position:
                best = i
    return best


@compiled
def head_of_waiting(s):
    """Return (request, slot) of who is next in the order of the policy."""
    if s.queue == FCFS:
        if s.sacrificed != NOBODY:
            return s.sacrificed, 0
        return (s.admitted_until if s.admitted_until < s.arrived else NOBODY), 0
    size = waiting_count(s)
    if size == 0:
        return NOBODY, 0
    slot = _first_by_user(s, size) if s.queue == USER else 0
    return waiting_slot(s, slot).value, slot


@compiled
def drop_from_waiting(s, r, slot):
    """Take the request that :func:`head_of_waiting` returned out of WAITING."""
    if s.queue == FCFS:
        if r == s.sacrificed:
            s.sacrificed = request(s, r).next
        else:
            s.admitted_until += 1
    elif s.queue == USER:
        last = waiting_count(s) - 1
        waiting_slot(s, slot).value = waiting_slot(s, last).value
        user_key_slot(s, slot).value = user_key_slot(s, last).value
    else:
        _pop(s, waiting_count(s))


@compiled
def return_to_waiting(s, first, count):
    """Put the sacrificed of one boundary, linked from ``first``, at the head of WAITING."""
    s.first_position -= count
    size, r = waiting_count(s) - count, first
    for i in range(count):
        q = request(s, r)
        after = q.next
        if s.queue != FCFS:
            push(s, size + i, r, s.first_position + i)
        elif i == count - 1:
            q.next = s.sacrificed
        r = after
    if s.queue == FCFS:
        s.sacrificed = first


@compiled
def enter_swapped(s, r):
    """Append ``r`` to the tail of SWAPPED."""
    request(s, r).next = NOBODY
    if s.swapped_tail == NOBODY:
        s.swapped_head = r
    else:
        request(s, s.swapped_tail).next = r
    s.swapped_tail = r
    s.swapped += 1


@compiled
def leave_swapped(s):
    """Take the head of SWAPPED out."""
    s.swapped_head = request(s, s.swapped_head).next
    if s.swapped_head == NOBODY:
        s.swapped_tail = NOBODY
    s.swapped -= 1
