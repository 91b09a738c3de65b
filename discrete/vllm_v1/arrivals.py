"""Who is sent next: requests at given times, or when clients that wait for answers send them.

Where nobody waits, rows of the table arrive in turn. Otherwise rows that may be sent stand in a
heap, in order of time and row; a turn joins it when the turn before has ended. With a limit on
concurrency the first of the heap waits until one of those sent has ended.
"""

from __future__ import annotations

import numpy as np

from discrete.vllm.layout import NOBODY
from discrete.vllm.memory import arrival_time, number_at
from serving.compilation import compiled
from serving.compiled_memory import REAL, real_at, table

_arrival = table("arrivals", REAL)


@compiled
def _set_arrival(s, r, time):
    _arrival(s, r).value = time


@compiled
def _is_before(s, a, b):
    """Return whether row ``a`` may be sent before row ``b``."""
    x, y = arrival_time(s, a), arrival_time(s, b)
    return x < y or (x == y and a < b)


@compiled
def _swap(s, i, j):
    a, b = number_at(s.ready_at, i), number_at(s.ready_at, j)
    a.value, b.value = b.value, a.value


@compiled
def _row(s, i):
    return number_at(s.ready_at, i).value


@compiled
def push_ready(s, r):
    """Let a row stand with those that may be sent."""
    i = s.ready
    number_at(s.ready_at, i).value = r
    s.ready += 1
    while i > 0 and _is_before(s, _row(s, i), _row(s, (i - 1) // 2)):
        _swap(s, i, (i - 1) // 2)
        i = (i - 1) // 2


@compiled
def _pop_ready(s):
    first = _row(s, 0)
    s.ready -= 1
    number_at(s.ready_at, 0).value = _row(s, s.ready)
    i = 0
    while True:
        least = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < s.ready and _is_before(s, _row(s, child), _row(s, least)):
                least = child
        if least == i:
            return first
        _swap(s, i, least)
        i = least


@compiled
def next_arrival(s):
    """Return when the next request is sent, as far as it is known; infinite where it is not."""
    if not s.closed:
        return arrival_time(s, s.arrived) if s.arrived < s.total else np.inf
    out = s.arrived - s.left
    if s.ready == 0 or out >= s.max_concurrency:
        return np.inf
    time = arrival_time(s, _row(s, 0))
    if time < s.last_end and out + s.ends_then >= s.max_concurrency:
        return s.last_end  # until then as many were out as may be
    return time


@compiled
def take_arrival(s):
    """Return the row of the request that is sent next, which is sent now."""
    if not s.closed:
        r = s.arrived
    else:
        time = next_arrival(s)
        r = _pop_ready(s)
        _set_arrival(s, r, time)
        number_at(s.order_at, s.arrived).value = r
    s.arrived += 1
    return r


@compiled
def let_send(s, r, time):
    """Let whoever waits for the end of request ``r``, at ``time``, send."""
    if not s.closed:
        return
    s.ends_then = s.ends_then + 1 if time == s.last_end else 1
    s.last_end = time
    following = number_at(s.turns_at, r).value
    if following != NOBODY:
        earliest = time + real_at(s.thinks_at, following)
        _set_arrival(s, following, max(arrival_time(s, following), earliest))
        push_ready(s, following)
