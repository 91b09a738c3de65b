"""The V1 engine, compiled: the loop of vLLM's engine core with so many batches in flight.

An iteration lets arrivals and aborts in, decides a batch if there is anyone to decide for, and
applies the output of the oldest batch in flight once no further one may be decided.
"""

from __future__ import annotations

import math

import numpy as np

from discrete._engine import Stop
from discrete.vllm.layout import PAUSE, ROWS_FULL, UNLIMITED, Event, Status
from discrete.vllm.memory import arrival_time, decision_row
from discrete.vllm.writing import log, sample_idle, sample_step, sinks_have_room
from discrete.vllm_v1.arrivals import next_arrival, take_arrival
from discrete.vllm_v1.layout import STUCK
from discrete.vllm_v1.memory import plan, request
from discrete.vllm_v1.outcome import apply_output, cancel, next_abort
from discrete.vllm_v1.queue import join_waiting
from discrete.vllm_v1.record import duration_of, note_hits, step_of, write_decision, write_step
from discrete.vllm_v1.schedule import schedule
from serving.compilation import compiled

FINISHED, UNTIL, BATCHES = int(Stop.FINISHED), int(Stop.UNTIL), int(Stop.BATCHES)
WAITING, ARRIVE = int(Status.WAITING), int(Event.ARRIVE)

PATIENCE = 3
"""Schedule() calls in a row, per batch in flight, that do nothing before the clock jumps on."""


@compiled
def _arrivals(s):
    """Let everyone in who has arrived; stop short where the sinks may not hold what follows."""
    while next_arrival(s) <= s.time:
        if not sinks_have_room(s):
            return False
        r = take_arrival(s)
        q = request(s, r)
        q.status = WAITING
        if s.closed:
            q.rank = s.arrived
        if s.record_events:
            log(s, arrival_time(s, r), ARRIVE, r, 0)
        join_waiting(s, r)
        s.unfinished += 1
    return sinks_have_room(s)


@compiled
def _has_work(s):
    """Return whether the scheduler is called: with a batch queue also to announce who ended."""
    return s.unfinished > 0 or (s.in_flight > 1 and s.announce)


@compiled
def _decide(s):
    """Decide a batch and queue it; return its tokens."""
    slot = (s.queue_first + s.queued) % s.in_flight
    ran, preempted = schedule(s, slot)
    batch, row = plan(s, slot), step_of(s, s.steps - 1)
    row.size = batch.size
    duration = duration_of(s, slot, row)
    note_hits(s, slot, ran)
    start = s.time + (s.cpu_gap if duration > 0 else 0.0)
    end = start + duration
    if s.in_flight > 1:
        end = max(end, s.device_free + duration / s.pipeline)
        start = end - duration
    s.device_free = end
    batch.end, batch.row = end, s.steps - 1
    s.blocks_used = s.num_blocks - 1 - s.free
    s.evicted_blocks += s.step_evictions
    write_step(s, row, s.time, start, duration, end)
    if s.log_decisions:
        write_decision(s, slot, ran, preempted)
    if s.record_steps:
        s.rows += 1
    s.busy += duration
    s.memory_time += duration * s.blocks_used
    if s.waiting > 0:
        s.blocked_time += duration * s.free
    s.queued += 1
    is_idle = batch.tokens == 0 and preempted == 0 and s.loading == 0
    s.idle = s.idle + 1 if is_idle else 0
    return batch.tokens


@compiled
def _apply_oldest(s):
    """Wait for the oldest batch in flight and apply what it brings."""
    slot = s.queue_first
    batch = plan(s, slot)
    s.queue_first = (slot + 1) % s.in_flight
    s.queued -= 1
    row = step_of(s, batch.row)
    s.time = max(s.time, batch.end)
    if s.samples < s.grid_size:
        sample_idle(s, row.start)
        sample_step(s, row, s.time)
    before = s.outcomes
    cancel(s, s.time)
    aborted = s.outcomes - before
    before = s.outcomes
    emitting, finished = apply_output(s, slot, s.time, batch.row)
    s.committed += 1
    s.blocks_used = s.num_blocks - 1 - s.free
    row.left, row.running_after, row.blocks_after = s.left, s.running, s.blocks_used
    row.emitting = emitting
    if s.log_decisions:
        decided = decision_row(s, s.decisions - 1 - (s.steps - 1 - batch.row))
        decided.aborted += aborted + s.in_transfer
        s.in_transfer = 0
        decided.finished = finished
        decided.drafts = (s.outcomes - before - finished) // 3


@compiled
def _in_flight_work(s):
    """Return whether a batch in flight has tokens."""
    for i in range(s.queued):
        if plan(s, (s.queue_first + i) % s.in_flight).tokens > 0:
            return True
    return False


@compiled
def _jump(s):
    """Go on to the next arrival or abort; return False where there is none."""
    moment = min(next_abort(s), next_arrival(s))
    s.idle = 0
    if moment == math.inf:
        return False
    s.time = max(s.time, moment)
    return True


@compiled
def advance(state, until, most_steps, fuel):
    """Advance the state, in place, until there is a reason to stop.

    Parameters
    ----------
    state : shape (1,)
        A record of :data:`STATE` whose addresses are valid.
    until, most_steps, fuel
        Latest time, schedule() calls and units of work (a call, a request in it) before it returns.

    Returns
    -------
    int
        A :class:`discrete.Stop`, ``PAUSE``, ``ROWS_FULL`` or ``STUCK``.
    """
    s = state[0]
    last = s.steps + most_steps if most_steps < UNLIMITED else UNLIMITED
    while True:
        if not _arrivals(s):
            return ROWS_FULL
        before = s.outcomes
        cancel(s, s.time)
        s.in_transfer += s.outcomes - before
        if not _has_work(s) and s.queued == 0:
            if s.arrived == s.total:
                sample_idle(s, np.inf)
                return FINISHED
            following = next_arrival(s)
            sample_idle(s, min(following, until))
            if following > until:
                s.time = max(s.time, until)
                return UNTIL
            s.time = following
            continue
        if s.time >= until:
            return UNTIL
        if s.steps >= last:
            return BATCHES
        if fuel <= 0:
            return PAUSE
        fuel -= 1 + s.running
        if _has_work(s):
            tokens = _decide(s)
            if s.queued < s.in_flight and (tokens > 0 or _has_work(s)):
                continue
        _apply_oldest(s)
        if s.idle > PATIENCE * s.in_flight and not _in_flight_work(s) and not _jump(s):
            return STUCK
