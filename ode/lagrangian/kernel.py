"""The iteration clock, compiled: one step is one batch (or several), in the engine's own order."""

from __future__ import annotations

from ode.lagrangian.arrivals import fresh_arrivals, is_idle, next_arrival
from ode.lagrangian.batch import execute, step_duration
from ode.lagrangian.boundary import admit, backdate, evict, join
from ode.lagrangian.cruise import align, cruise
from ode.lagrangian.layout import (
    FROM,
    R_COMPLETED,
    R_DURATION,
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_SIZE,
    R_START,
    R_SWAPPED,
    R_TOKENS,
    UNTIL,
    Answer,
)
from ode.lagrangian.memory import parcels_of, row_of, running_of, swapped_of, waiting_of
from ode.lagrangian.parcels import compact, size_of
from ode.lagrangian.room import has_room, has_sample_room, steps_allowed
from serving.compilation import compiled

DONE, QUEUE_FULL, ROWS_FULL, SAMPLES_FULL, STEP_LIMIT, STALLED = (
    int(answer)
    for answer in (
        Answer.DONE,
        Answer.QUEUE_FULL,
        Answer.ROWS_FULL,
        Answer.SAMPLES_FULL,
        Answer.STEP_LIMIT,
        Answer.STALLED,
    )
)


@compiled
def _may_cruise(w):
    """Say whether nothing binds, so that :func:`ode.lagrangian.cruise.cruise` may take over."""
    if w.samples_size > 0 and w.sample_unit == 0.0:  # few samples yet: all are kept, in full
        return False
    if w.classes > 1 or size_of(waiting_of(w)) > 0 or size_of(swapped_of(w)) > 0:
        return False
    if w.batches_per_step != 1.0 and w.theta == 0.0:
        return False
    tightest = min(w.B, w.M_total, w.admission_threshold * w.M_total)
    return w.memory + w.running < 0.95 * tightest


@compiled
def _boundary(w):
    """Let arrivals join, then evict or admit."""
    fresh = fresh_arrivals(w)
    if fresh > 0.0:
        join(w, fresh)
    queue, waiting = running_of(w), waiting_of(w)
    never_queued = fresh > 0.0 and size_of(waiting) == 1
    w.seen = w.now
    excess = w.memory + w.running - w.M_total
    if excess > w.negligible:
        evict(w, excess)
    else:
        admit(w)
    if w.batches_per_step == 1.0 or w.theta == 0.0 or not never_queued or size_of(waiting) > 0:
        return
    parcels, newest = parcels_of(queue), queue.tail - 1
    if parcels[FROM, newest] < parcels[UNTIL, newest] and w.memory + w.running <= w.B:
        backdate(w)


@compiled
def _batches(w):
    """Execute the batches of one step and write their row; return how long [time] they take."""
    row = row_of(w)
    row[R_START] = w.now
    row[R_RUNNING] = w.running
    row[R_SWAPPED] = w.swapped
    row[R_MEMORY] = w.memory
    row[R_EVICTED] = w.evicted
    row[R_COMPLETED] = w.completed
    queue = running_of(w)
    if queue.tail == queue.extent:
        compact(w, queue, 1, 1)
    execute(w, w.batches_per_step, row)
    duration = step_duration(w, row[R_TOKENS], row[R_SIZE])
    row[R_DURATION] = duration
    w.owed_tokens = 0.0
    w.owed_requests = 0.0
    w.moved = 0.0
    return duration


@compiled
def advance(workspace):
    """March until the end, or until something is full; nothing is allocated.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.lagrangian.layout.WORKSPACE`, seeded; updated in place.

    Returns
    -------
    int
        An :class:`ode.lagrangian.layout.Answer`. After QUEUE_FULL, ROWS_FULL, SAMPLES_FULL and
        STEP_LIMIT the march goes on where it stopped once there is room; after DONE it goes on
        where ``end`` is later than before, or the arrival curve longer.
    """
    w = workspace[0]
    waiting = waiting_of(w)
    while True:
        if w.now >= w.end:
            return DONE
        limit = steps_allowed(w)
        if w.steps >= limit:
            return STEP_LIMIT if w.steps >= w.most_steps else ROWS_FULL
        if not has_sample_room(w):
            return SAMPLES_FULL
        may_cruise = _may_cruise(w)
        if not has_room(w, may_cruise):
            return QUEUE_FULL
        if may_cruise and align(w):
            cruise(w, limit)
            if w.steps >= limit or w.now >= w.end:
                continue
        _boundary(w)
        if size_of(waiting) == 0 and is_idle(w.running, w.arrived):
            until = next_arrival(w)
            if until > w.horizon or until >= w.end:
                return DONE
            if until > w.now:
                w.now = until
                w.seen = until
                continue
        duration = _batches(w)
        if duration <= 0.0:
            return STALLED
        w.steps += 1
        w.now += duration
        w.theta += w.batches_per_step
