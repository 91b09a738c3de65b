"""The waiting queue and the swapped, as they are between schedule() calls.

Nobody is put into the waiting queue but the preempted, at its head, and those who arrive, in the
order of the table: so it is a linked stack and a range of numbers.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm_v0.memory import request
from serving.compilation import compiled


@compiled
def head_of_waiting(s):
    """Return who is first in the waiting queue."""
    if s.resumed != NOBODY:
        return s.resumed
    return s.fresh if s.fresh < s.arrived else NOBODY


@compiled
def leave_waiting(s):
    """Take the first out of the waiting queue; its own link stays, so that it can be put back."""
    if s.resumed != NOBODY:
        s.resumed = request(s, s.resumed).next
    else:
        s.fresh += 1
    s.waiting -= 1


@compiled
def rejoin_waiting(s, r):
    """Put a preempted request at the head of the waiting queue."""
    request(s, r).next = s.resumed
    s.resumed = r
    s.waiting += 1


@compiled
def enter_swapped(s, r):
    """Put a request at the tail of the swapped."""
    request(s, r).next = NOBODY
    if s.swapped_tail == NOBODY:
        s.swapped_head = r
    else:
        request(s, s.swapped_tail).next = r
    s.swapped_tail = r
    s.swapped += 1


@compiled
def leave_swapped(s):
    """Take the first out of the swapped."""
    s.swapped_head = request(s, s.swapped_head).next
    if s.swapped_head == NOBODY:
        s.swapped_tail = NOBODY
    s.swapped -= 1
