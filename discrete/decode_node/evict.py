"""Memory pressure: who is evicted from RUNNING and where to."""

from __future__ import annotations

from discrete.decode_node.layout import NOBODY, Kind, Place, Victim
from discrete.decode_node.memory import arrival_time, history, request
from discrete.decode_node.policies import user_key
from discrete.decode_node.random import draw_integer, pcg64_at
from discrete.decode_node.running import first_idle, leave_prefix, log, unlink
from discrete.decode_node.waiting import enter_swapped, return_to_waiting
from serving.compilation import compiled

LIFO, FIFO, LRU, RANDOM = (int(v) for v in (Victim.LIFO, Victim.FIFO, Victim.LRU, Victim.RANDOM))
SWAP_OUT, SACRIFICE = int(Kind.SWAP_OUT), int(Kind.SACRIFICE)
IN_SWAPPED, IN_WAITING = int(Place.SWAPPED), int(Place.WAITING)


@compiled
def _least_recent(s):
    """Return who executed longest ago; the whole prefix executed in the last batch."""
    victim, r = s.tail, first_idle(s)
    if r == NOBODY:
        return victim, True
    oldest = s.batch
    while r != NOBODY:
        last = history(s, r).last_batch
        if last <= oldest:
            victim, oldest = r, last
        r = request(s, r).next
    return victim, False


@compiled
def _at(s, index):
    """Return the member of RUNNING at ``index``, walking from the nearer end."""
    if 2 * index < s.running:
        r = s.head
        for _ in range(index):
            r = request(s, r).next
        return r
    r = s.tail
    for _ in range(s.running - 1 - index):
        r = request(s, r).previous
    return r


@compiled
def _choice_of_user(s):
    """Return whom the user's policy gives the smallest number; ties: the latest in RUNNING."""
    victim, executed, best = NOBODY, False, 0.0
    r = s.head
    for i in range(s.running):
        q = request(s, r)
        member = i < s.executing
        k = s.batch - q.progress if member else q.progress
        last = s.batch if member else history(s, r).last_batch
        key = user_key(s, s.victim_address, r, k, last)
        if victim == NOBODY or key <= best:
            victim, executed, best = r, member, key
        r = q.next
    return victim, executed


@compiled
def _choose(s):
    """Return (victim, whether it executed in the last batch)."""
    if s.victim == LIFO:
        return s.tail, s.executing == s.running
    if s.victim == FIFO:
        return s.head, s.executing > 0
    if s.victim == LRU:
        return _least_recent(s)
    if s.victim == RANDOM:
        index = draw_integer(pcg64_at(s.random_at), s.running)
        return _at(s, index), index < s.executing
    return _choice_of_user(s)


@compiled
def _in_entry_order(s, first, r):
    """Insert ``r`` into the list of this boundary's victims, which is in RUNNING order."""
    entry, q = history(s, r).entry, request(s, r)
    # LIFO takes from the tail, so the newest victim stands before all others
    if first == NOBODY or s.victim == LIFO or entry < history(s, first).entry:
        q.next = first
        return r
    at = request(s, first)
    while at.next != NOBODY and history(s, at.next).entry < entry:
        at = request(s, at.next)
    q.next = at.next
    at.next = r
    return first


@compiled
def _swap_out(s, q, h, r):
    if s.record_events:
        log(s, s.time, SWAP_OUT, r, q.progress)
    held = q.prefill + q.progress
    s.used -= held
    s.moved += held
    h.swaps += 1
    h.place = IN_SWAPPED
    enter_swapped(s, r)


@compiled
def _sacrifice(s, q, h, r):
    if s.record_events:
        log(s, s.time, SACRIFICE, r, q.progress)
    k = q.progress
    s.used -= q.prefill + k
    s.lost_tokens += k
    h.furthest = max(h.furthest, k)
    if h.sacrifices == 0:
        h.waiting = q.first_enter - arrival_time(s, r)
    h.sacrifices += 1
    h.place = IN_WAITING
    q.progress = 0


@compiled
def _evict(s, first):
    """Evict one victim; return the first of this boundary's sacrificed."""
    r, executed = _choose(s)
    if executed:
        leave_prefix(s, r)
    unlink(s, r)
    q, h = request(s, r), history(s, r)
    if h.swaps + h.sacrifices == 0:
        h.since = q.first_enter
    h.executing += s.time - h.since
    h.since = s.time
    if s.sacrifice:
        _sacrifice(s, q, h, r)
        return _in_entry_order(s, first, r)
    _swap_out(s, q, h, r)
    return first


@compiled
def relieve_pressure(s):
    """Evict while used + |RUNNING| > M_total and |RUNNING| > 1; return how many."""
    count, first = 0, NOBODY
    while s.used + s.running > s.M_total and s.running > 1:
        first = _evict(s, first)
        count += 1
    if count > 0:
        s.evicted += count
        if s.sacrifice:
            return_to_waiting(s, first, count)
    return count
