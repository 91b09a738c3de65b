"""Who may enter RUNNING at a boundary: arrivals join WAITING, then SWAPPED goes before WAITING."""

from __future__ import annotations

from discrete.decode_node.layout import NOBODY, Kind, Place, Queue, Victim
from discrete.decode_node.memory import arrival_time, history, request, write_arrival
from discrete.decode_node.running import enter_running, log
from discrete.decode_node.waiting import (
    drop_from_waiting,
    head_of_waiting,
    leave_swapped,
    push,
    rank_by_user,
    waiting_count,
)
from serving.compilation import compiled

ARRIVE, ADMIT, SWAP_IN = int(Kind.ARRIVE), int(Kind.ADMIT), int(Kind.SWAP_IN)
USUAL, FCFS, USER, LIFO = int(Place.USUAL), int(Queue.FCFS), int(Queue.USER), int(Victim.LIFO)


@compiled
def join_waiting(s):
    """Let arrivals up to now join the tail of WAITING; return whether all could be logged."""
    while s.arrived < s.total and arrival_time(s, s.arrived) <= s.time:
        a = s.arrived
        if s.record_events:
            if s.events == s.events_size:
                return False
            log(s, arrival_time(s, a), ARRIVE, a, 0)
        write_arrival(s, a)
        if s.queue != FCFS:
            push(s, waiting_count(s), a, a)
        s.arrived = a + 1
    return True


@compiled
def _fits(s, tokens):
    """Whether a request holding ``tokens`` may enter and decode one more, with everyone else."""
    return s.used + s.running + tokens + 1 <= s.M_total and s.used < s.admission_limit


@compiled
def _note_entry(s, r):
    """Number entries where victims of one boundary have to be put in RUNNING order."""
    if s.sacrifice and s.victim != LIFO:
        s.entries += 1
        history(s, r).entry = s.entries


@compiled
def swap_in(s):
    """Bring requests back from the head of SWAPPED while they fit."""
    while s.swapped > 0:
        r = s.swapped_head
        q, h = request(s, r), history(s, r)
        held = q.prefill + q.progress
        if not _fits(s, held):
            return
        leave_swapped(s)
        if s.record_events:
            log(s, s.time, SWAP_IN, r, q.progress)
        h.swapped += s.time - h.since
        h.since = s.time
        h.place = USUAL
        s.moved += held
        enter_running(s, r)


@compiled
def admit(s):
    """Admit from WAITING in the order of the policy, up to the first that does not fit."""
    if s.queue == USER:
        rank_by_user(s)
    while True:
        r, slot = head_of_waiting(s)
        if r == NOBODY:
            return
        q = request(s, r)
        if not _fits(s, q.prefill):
            return
        drop_from_waiting(s, r, slot)
        if s.record_events:
            log(s, s.time, ADMIT, r, 0)
        if q.first_enter != q.first_enter:
            q.first_enter = s.time
        else:
            h = history(s, r)
            h.waiting += s.time - h.since
            h.since = s.time
            h.place = USUAL
        _note_entry(s, r)
        enter_running(s, r)
