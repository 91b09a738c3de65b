"""The V0 engine, compiled: the loop of vLLM's engine, which waits for every batch."""

from __future__ import annotations

import math

from discrete._engine import Stop
from discrete.vllm.layout import PAUSE, ROWS_FULL, UNLIMITED, Event, Status
from discrete.vllm.memory import arrival_time, decision_row
from discrete.vllm.writing import log, sample_idle, sample_step, sinks_have_room
from discrete.vllm_v0.layout import EXHAUSTED, STUCK, Group
from discrete.vllm_v0.livelock import goes_round
from discrete.vllm_v0.memory import count_of, request
from discrete.vllm_v0.outcome import apply_output
from discrete.vllm_v0.record import (
    duration_of,
    step_of,
    write_decision,
    write_step,
    write_step_end,
)
from discrete.vllm_v0.schedule import schedule
from discrete.vllm_v0.settle import settle
from serving.compilation import compiled

FINISHED, UNTIL, BATCHES = int(Stop.FINISHED), int(Stop.UNTIL), int(Stop.BATCHES)
WAITING, ARRIVE, VICTIMS = int(Status.WAITING), int(Event.ARRIVE), int(Group.VICTIMS)

PATIENCE = 3
"""Schedule() calls in a row that do nothing before the clock jumps on."""


@compiled
def _unfinished(s):
    return s.waiting + s.running + s.swapped


@compiled
def _arrivals(s):
    """Let everyone in who has arrived; stop short where the sinks may not hold what follows."""
    while s.arrived < s.total and arrival_time(s, s.arrived) <= s.time:
        if not sinks_have_room(s):
            return False
        request(s, s.arrived).status = WAITING
        if s.record_events:
            log(s, arrival_time(s, s.arrived), ARRIVE, s.arrived, 0)
        s.waiting += 1
        s.arrived += 1
        s.last_progress = s.steps
    return sinks_have_room(s)


@compiled
def _step(s):
    """Decide a batch, wait for it and apply what it brings; return whether the engine survives."""
    step = s.steps
    row = step_of(s, step)
    if not schedule(s):
        return False
    duration = duration_of(s, row)
    settle(s)
    if s.ignored + s.lost > 0:
        s.last_progress = step
    write_step(s, row, duration)
    if s.log_decisions:
        write_decision(s, row.size)
    if s.record_steps:
        s.rows += 1
    s.busy += duration
    s.memory_time += duration * s.blocks_used
    if s.waiting + s.swapped > 0:
        s.blocked_time += duration * (s.num_gpu_blocks - s.blocks_used)
    changes = row.size + s.moved_out + s.moved_in + s.ignored + s.lost + count_of(s, VICTIMS).value
    s.idle = 0 if changes > 0 else s.idle + 1
    s.steps += 1
    s.time = row.end
    if s.samples < s.grid_size:
        sample_idle(s, row.start)
        sample_step(s, row, s.time)
    finished = apply_output(s, row, step)
    s.committed += 1
    write_step_end(s, row)
    if s.log_decisions:
        decision_row(s, s.decisions - 1).finished = finished
    return True


@compiled
def _jump(s, until):
    """Wait for the next arrival, but no longer than ``until``; return whether it came."""
    following = arrival_time(s, s.arrived)
    if following > until:
        s.time = max(s.time, until)
        return False
    s.idle = 0
    s.time = max(s.time, following)
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
        A :class:`discrete.Stop`, ``PAUSE``, ``ROWS_FULL``, ``STUCK`` or ``EXHAUSTED``.
    """
    s = state[0]
    last = s.steps + most_steps if most_steps < UNLIMITED else UNLIMITED
    has_no_end = last == UNLIMITED and until == math.inf
    while True:
        if not _arrivals(s):
            return ROWS_FULL
        if s.idle > PATIENCE:
            if s.arrived == s.total:
                return STUCK
            if not _jump(s, until):
                return UNTIL
            continue
        if _unfinished(s) == 0:
            if s.arrived == s.total:
                sample_idle(s, math.inf)
                return FINISHED
            following = arrival_time(s, s.arrived)
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
        if has_no_end and s.arrived == s.total and goes_round(s):
            return STUCK
        if fuel <= 0:
            return PAUSE
        fuel -= 1 + s.running
        if not _step(s):
            return EXHAUSTED
