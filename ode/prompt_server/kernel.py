"""The march of a server that computes its own prompts, compiled: one row is one step."""

from __future__ import annotations

import numpy as np

from ode.lagrangian.arrivals import arrivals_by, is_idle, next_arrival
from ode.lagrangian.layout import (
    R_COMPLETED,
    R_DURATION,
    R_EMITTED,
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_SIZE,
    R_START,
    R_SWAPPED,
    R_TOKENS,
)
from ode.prompt_server.layout import (
    A_FIRST_TOKEN,
    AGE,
    BEFORE,
    BIRTH,
    COLUMNS,
    MASS,
    PREEMPTED,
    RESUMED,
    SLOT,
    SWAPPED,
    Answer,
)
from ode.prompt_server.memory import parcels_of, queue_of, row_of, stopped, totals
from ode.prompt_server.preempt import note_piece, preempt
from ode.prompt_server.scatter import prompt_step
from ode.prompt_server.start import start, swap_in
from serving.batch_kernel import step_duration
from serving.compilation import compiled
from serving.compiled_memory import vector_at

DONE, FULL, STEP_LIMIT, STALLED, STUCK = (
    int(each)
    for each in (Answer.DONE, Answer.FULL, Answer.STEP_LIMIT, Answer.STALLED, Answer.STUCK)
)

MANY = 30.0
"""Requests that start in a step [requests] beyond which chance leaves no step without one."""


@compiled
def _duration(w, decodes, context, entering):
    """Return the mean time [time] of a step in which so many requests start on average.

    Where few start, some steps have a prompt and some have none.
    """
    if w.scatter_at != 0 and w.step_prefill > 0.0:
        mixed, some = prompt_step(w, decodes, context, entering)
        without = step_duration(w.law_at, decodes, context, 0.0, 0.0, 0.0, w.moved)
        return some * mixed + (1.0 - some) * without
    read = context + w.step_context
    if entering >= MANY:
        return step_duration(
            w.law_at, decodes, read, w.step_prefill, w.step_attention, w.step_known, w.moved
        )
    some = -np.expm1(-entering)
    without = step_duration(w.law_at, decodes, context, 0.0, 0.0, 0.0, w.moved)
    if some <= 0.0:
        return without
    each = 1.0 / some
    with_some = step_duration(
        w.law_at, decodes, context + each * w.step_context, each * w.step_prefill,
        each * w.step_attention, each * w.step_known, w.moved,
    )  # fmt: skip
    return some * with_some + (1.0 - some) * without


@compiled
def _has_room(w):
    """Return whether the next step fits into the tables, whatever happens in it."""
    if w.steps + 2 > w.rows_size:
        return False
    resumed, preempted = queue_of(w, RESUMED), queue_of(w, PREEMPTED)
    swapped = queue_of(w, SWAPPED)
    windows = w.ages + (resumed.tail - resumed.head)
    held = preempted.tail - preempted.head + swapped.tail - swapped.head
    if w.pieces + 2 * windows + 1 > w.pieces_size:
        return False
    return (
        resumed.tail + held + windows + 1 <= w.parcels_size
        and preempted.tail + windows + 1 <= w.parcels_size
        and swapped.tail + windows + 1 <= w.parcels_size
    )


@compiled
def _tidy(w):
    """Move the queues to the beginning of their storage."""
    for number in (RESUMED, PREEMPTED, SWAPPED):
        queue, parcels = queue_of(w, number), parcels_of(w, number)
        if queue.head == 0:
            continue
        for i in range(queue.tail - queue.head):
            for column in range(COLUMNS):
                parcels[i, column] = parcels[queue.head + i, column]
        queue.tail -= queue.head
        queue.head = 0


@compiled
def _write(w, began, duration, running, memory, tokens, size, emitted):
    row = row_of(w)
    row[R_START] = began
    row[R_DURATION] = duration
    row[R_RUNNING] = running
    row[R_SWAPPED] = w.swapped
    row[R_COMPLETED] = w.completed
    row[R_MEMORY] = memory
    row[R_TOKENS] = tokens
    row[R_SIZE] = size
    row[R_EVICTED] = w.evicted
    row[R_EMITTED] = emitted
    w.steps += 1
    w.running, w.memory = running, memory
    w.busy += duration
    w.memory_time += duration * memory
    w.moved = 0.0


@compiled
def _begin_step(w):
    w.step_prefill = w.step_attention = w.step_known = w.step_context = 0.0
    w.step_fresh = w.step_resumed = w.step_taken = w.step_held = 0.0


@compiled
def _note_first_tokens(w, before, end):
    """Say when those who started in this step have their first token."""
    for i in range(before, w.admissions):
        vector_at(w.admissions_at + i * 40, 5)[A_FIRST_TOKEN] = end


@compiled
def _reserve(w, seats):
    """Return the KV [tokens] that an admission leaves free."""
    return w.reserve if seats > w.negligible or w.prompts_apart else 0.0


@compiled
def _prompts_step(w, seats, blocks):
    """Make a step of prompts alone, as often as anybody can start; return its time, -1 without one.

    Where less than one request can start, it does so in some of the cases and in the others the
    decodes go on: what they have gained is their credit.
    """
    before = w.admissions
    _begin_step(w)
    start(w, w.step_tokens, w.most_running - seats, w.kv_tokens - _reserve(w, seats) - blocks)
    entering = w.step_fresh + w.step_resumed
    if entering <= w.negligible:
        w.credit = 1.0
        return -1.0
    some = -np.expm1(-entering)
    each = 1.0 / some
    began = w.now
    if w.scatter_at != 0 and w.step_prefill > 0.0:
        mixed, some = prompt_step(w, 0.0, 0.0, entering)
        duration = some * mixed
    else:
        duration = some * step_duration(
            w.law_at, 0.0, each * w.step_context, each * w.step_prefill, each * w.step_attention,
            each * w.step_known, w.moved,
        )  # fmt: skip
    w.busy -= w.gap * some
    duration += w.gap * some
    end = began + duration
    running, memory = seats + entering, blocks + w.step_held
    _write(w, began, duration, running, memory, w.step_prefill, entering, 0.0)
    _note_first_tokens(w, before, end)
    w.tokens += entering
    w.taken += w.step_taken
    w.credit += 1.0 - some
    w.now = w.device_free = end
    return duration


@compiled
def _step(w, found):
    """Make a step of decodes, and of prompts beside them where they share steps."""
    alive, decodes, context, seats, blocks = found
    before = w.admissions
    _begin_step(w)
    if blocks > w.kv_tokens * (1.0 + 1e-9):
        preempt(w, blocks)
        alive, decodes, context, seats, blocks = totals(w)
    else:
        if w.swaps and queue_of(w, SWAPPED).tail > queue_of(w, SWAPPED).head:
            room = w.kv_tokens - _reserve(w, seats) - blocks
            swap_in(w, w.most_running - seats, room)
            alive, decodes, context, seats, blocks = totals(w)
        if not w.prompts_apart:
            room = w.kv_tokens - _reserve(w, seats) - blocks
            start(w, w.step_tokens - decodes, w.most_running - seats, room)
    if w.swaps:
        w.swapped = stopped(w, SWAPPED)
    entering = w.step_fresh + w.step_resumed
    moved = w.moved
    w.moved = moved / w.block_size
    duration = _duration(w, decodes, context, entering)
    began = max(w.device_free, w.now)
    late = max(0.0, w.now + w.gap - began)
    duration += late  # the processor decides while the device waits
    w.busy -= late
    end = began + duration
    _write(
        w, began, duration, seats + entering, blocks + w.step_held, decodes + w.step_prefill,
        decodes + entering, alive,
    )  # fmt: skip
    _note_first_tokens(w, before, end)
    vector_at(w.ends_at, w.rows_size)[w.clock] = end
    vector_at(w.alive_at, w.rows_size)[w.clock] = alive
    w.tokens += alive + entering
    w.taken += decodes + w.step_taken
    w.clock += 1
    w.credit = 0.0
    w.device_free = end
    w.now = began if w.is_ahead else end
    return duration


@compiled
def _drop_ended(w):
    """Forget the oldest of those who run again once nobody of them is left."""
    queue, parcels = queue_of(w, RESUMED), parcels_of(w, RESUMED)
    while queue.tail > queue.head and (
        w.clock + 1 - np.int64(parcels[queue.head, BIRTH]) >= w.ages
    ):
        each = parcels[queue.head]
        note_piece(w, each[MASS], each[SLOT], each[AGE], each[BIRTH], each[BEFORE], w.ages)
        queue.head += 1


@compiled
def advance(workspace):
    """March until the end, or until a table is full; nothing is allocated.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.prompt_server.layout.WORKSPACE`; updated in place.

    Returns
    -------
    int
        An :class:`ode.prompt_server.layout.Answer`.
    """
    w = workspace[0]
    while True:
        found = totals(w)
        alive, seats, blocks = found[0], found[3], found[4]
        waits = 0.0
        if queue_of(w, PREEMPTED).tail > queue_of(w, PREEMPTED).head or w.swapped > 0.0:
            waits = stopped(w, PREEMPTED) + stopped(w, SWAPPED)
        w.completed = max(w.completed, w.admitted - alive - waits)
        if w.now >= w.end:
            return DONE
        if w.steps >= w.most_steps:
            return STEP_LIMIT
        if not _has_room(w):
            _tidy(w)
            if not _has_room(w):
                return FULL
        w.arrived = max(w.arrived, arrivals_by(w, min(w.now, w.horizon)))
        if is_idle(seats + waits, w.arrived) and w.arrived <= w.admitted * (1.0 + 1e-15):
            until = next_arrival(w)
            if until > w.horizon or until >= w.end:
                w.completed = w.admitted
                return DONE
            if until > w.now:
                w.now = until
                w.device_free = max(w.device_free, until)
                continue
        if w.prompts_apart and w.swapped <= w.negligible and w.credit < 1.0:
            duration = _prompts_step(w, seats, blocks)
            if duration == 0.0:
                return STALLED
            if duration > 0.0:
                continue
            if is_idle(seats, w.arrived) and w.arrived > w.admitted + w.negligible:
                return STUCK
        started = w.admitted
        duration = _step(w, found)
        if duration <= 0.0:
            return STALLED
        nobody = is_idle(seats, w.arrived) and w.admitted <= started and w.step_resumed <= 0.0
        if nobody and not w.prompts_apart and w.arrived > w.admitted + w.negligible:
            return STUCK
        _drop_ended(w)
