"""The decode-node engine, compiled: from one batch boundary to the next, until something stops it.

Work is done per event, not per request and batch: between events (a completion, an arrival, memory
or budget running out) a batch is a few additions, in the order of ``BatchTimeLaw.duration``.
"""

from __future__ import annotations

import math

from discrete._engine import Stop
from discrete.decode_node.admit import admit, join_waiting, swap_in
from discrete.decode_node.evict import relieve_pressure
from discrete.decode_node.layout import NOBODY, PAUSE, SINK_FULL, UNLIMITED, Queue
from discrete.decode_node.memory import (
    arrival_time,
    batch_row,
    grid_time,
    request,
    ring_slot,
    sample_row,
)
from discrete.decode_node.running import complete, fit_prefix
from discrete.decode_node.waiting import waiting_count
from serving.batch_kernel import at_requests, of_tokens
from serving.compilation import compiled

USER = int(Queue.USER)
FINISHED, UNTIL, BATCHES = int(Stop.FINISHED), int(Stop.UNTIL), int(Stop.BATCHES)


@compiled
def _sample_idle(s, until):
    """Fill the sampling grid before ``until`` with an empty system."""
    while s.samples < s.grid_size and grid_time(s, s.samples) < until:
        row = sample_row(s, s.samples)
        row.completed = s.completed
        row.evicted = s.evicted
        s.samples += 1


@compiled
def _sample_batch(s, duration):
    """Fill the sampling grid before the end of the batch that has just run."""
    size = s.executing
    while s.samples < s.grid_size and grid_time(s, s.samples) < s.time:
        row = sample_row(s, s.samples)
        row.running = s.running
        row.swapped = s.swapped
        row.completed = s.completed
        row.evicted = s.evicted
        row.memory = s.used - size
        row.size = size
        row.tokens = s.cost - size
        row.duration = duration
        s.samples += 1


@compiled
def _room(s):
    """Whether one boundary and its batch fit into the sinks, whatever happens in them."""
    if s.record_batches and s.batches == s.batches_size:
        return False
    entrants = min(waiting_count(s) + s.swapped, max(0, (s.M_total - s.used) // 2 + 1))
    needed = 2 * (s.running + entrants)
    if s.record_batches and s.spans_size - s.spans < needed:
        return False
    return not s.record_events or s.events_size - s.events >= needed


@compiled
def _note_first_tokens(s, newcomer, end):
    """Note the end of the first batch of everyone who has just entered the prefix."""
    r = newcomer
    while r != NOBODY:
        q = request(s, r)
        if q.first_token != q.first_token:
            q.first_token = end
        r = q.next if r != s.last_executing else NOBODY


@compiled
def _execute(s, newcomer, next_time, most):
    """Run the execution batch until an event, at most ``most`` times; return the last duration."""
    size, tokens, used, time, batch = s.executing, s.cost, s.used, s.time, s.batch
    line = at_requests(s.law_at, size, s.moved)
    budget = s.B if size > 1 else UNLIMITED
    memory = s.M_total - s.running if s.running > 1 else UNLIMITED
    M_total, blocked = s.M_total, s.swapped > 0 or waiting_count(s) > 0
    busy, memory_time, blocked_time = s.busy, s.memory_time, s.blocked_time
    if newcomer != NOBODY:
        _note_first_tokens(s, newcomer, time + of_tokens(line, tokens))
    last, record = batch + most, s.record_batches
    while True:
        duration = of_tokens(line, tokens)
        if record:
            row = batch_row(s, s.batches)
            row.start = time
            row.duration = duration
            row.tokens = tokens
            row.size = size
            row.running = s.running
            row.swapped = s.swapped
            row.memory = used
            row.evicted = s.evicted
            row.completed = s.completed
            row.memory_after = used + size
            s.batches += 1
        busy += duration
        memory_time += duration * used
        if blocked:
            blocked_time += duration * (M_total - used)
        time += duration
        tokens += size
        used += size
        batch += 1
        if (
            ring_slot(s, batch).value != NOBODY
            or time >= next_time
            or tokens > budget
            or used > memory
            or batch == last
        ):
            break
    s.cost, s.used, s.time, s.batch = tokens, used, time, batch
    s.busy, s.memory_time, s.blocked_time = busy, memory_time, blocked_time
    s.moved = 0
    return duration


@compiled
def _next_moment(s, until):
    """Return the next time at which there is something to do besides executing."""
    moment = until
    if s.arrived < s.total:
        moment = min(moment, arrival_time(s, s.arrived))
    if s.samples < s.grid_size:
        moment = min(moment, grid_time(s, s.samples))
    return moment


@compiled
def _boundary_and_batches(s, until, most):
    """Let the scheduler decide, execute up to the next event; return the units of work done."""
    before, running, waiting = s.batch, s.running, waiting_count(s)
    work, by_user = 0, s.queue == USER and waiting > 0
    evicted = relieve_pressure(s)
    if evicted == 0:
        swap_in(s)
        if s.swapped == 0:
            admit(s)
    newcomer = fit_prefix(s)
    # after these the next boundary may decide otherwise although nothing happens until then
    if evicted > 0 or s.moved > 0 or by_user:
        most = 1
        work = evicted * running + (waiting if by_user else 0)
    duration = _execute(s, newcomer, _next_moment(s, until), most)
    if s.samples < s.grid_size:
        _sample_batch(s, duration)
    if ring_slot(s, s.batch).value != NOBODY:
        complete(s)
        if s.record_batches:
            row = batch_row(s, s.batches - 1)
            row.completed = s.completed
            row.memory_after = s.used
    return work + s.batch - before


@compiled
def advance(state, until, most_batches, fuel):
    """Advance the state, in place, to the first boundary at which there is a reason to stop.

    Parameters
    ----------
    state : shape (1,)
        A record of :data:`STATE` whose addresses are valid.
    until, most_batches, fuel
        Latest time, batches and units of work (a batch, a request looked at) before it returns.

    Returns
    -------
    int
        A :class:`discrete.Stop`, ``PAUSE`` or ``SINK_FULL``.
    """
    s = state[0]
    last_batch = s.batch + most_batches if most_batches < UNLIMITED else UNLIMITED
    while True:
        if not join_waiting(s):
            return SINK_FULL
        if s.completed == s.total:
            _sample_idle(s, math.inf)
            return FINISHED
        if s.batch >= last_batch:
            return BATCHES
        if s.completed == s.arrived:
            following = arrival_time(s, s.arrived)
            _sample_idle(s, min(following, until))
            if following > until:
                s.time = max(s.time, until)
                return UNTIL
            s.time = following
            continue
        if s.time >= until:
            return UNTIL
        if fuel <= 0:
            return PAUSE
        most = min(last_batch - s.batch, fuel)
        if s.record_batches or s.record_events:
            if not _room(s):
                return SINK_FULL
            if s.record_batches:
                most = min(most, s.batches_size - s.batches)
        fuel -= _boundary_and_batches(s, until, most)
