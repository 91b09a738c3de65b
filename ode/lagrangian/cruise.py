"""The iteration clock while nothing binds: every parcel executes, so cohorts only shift.

Ages are then a fixed distance apart and need not be stored: the totals of a step are dot products
of the cohorts' masses with the survival of their ages. Same steps as the general kernel, a
fraction of the time.
"""

from __future__ import annotations

import numpy as np

from ode.lagrangian.arrivals import fresh_arrivals, is_idle
from ode.lagrangian.batch import step_duration
from ode.lagrangian.layout import (
    ADMITTED,
    AGE,
    ALIVE,
    COLUMNS,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    HELD,
    L_ALIVE,
    L_COST,
    L_MEMORY,
    LAST_TOKEN,
    MASS,
    PREFILL,
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
    REORDER,
    SURVIVE,
    UNTIL,
    WORK,
)
from ode.lagrangian.memory import lanes_of, parcels_of, row_of, running_of, tables_of
from ode.lagrangian.parcels import at, use_spare
from ode.lagrangian.sampling import sample_cruising
from serving.compilation import compiled
from serving.compiled_memory import matrix_at

CHUNK = 64
"""Places [parcels] by which the sums skip ages that nobody has.

It is a multiple of what a vector loop adds at once, so that skipping does not change the order in
which the rest is added up."""


@compiled
def aligned_extent(length):
    """Return the places [parcels] that RUNNING uses while cruising on lanes of ``length``."""
    return 8 * ((3 * length + 600) // 16) + 8


@compiled
def _was_suspended(w, parcels, i):
    """Say whether a parcel did not produce all of its tokens in successive batches."""
    first = parcels[FIRST_TOKEN, i] - (w.theta - parcels[AGE, i] + 1.0)
    return parcels[LAST_TOKEN, i] != w.theta or abs(first) > 1e-6


@compiled
def align(w):
    """Lay RUNNING out by age in the spare storage, one place per step of age, if its ages allow.

    The places before the oldest parcel are nobody's; CHUNK of them are set to zero as well.

    Returns
    -------
    bool
        False, and nothing has changed, if a parcel was suspended, restarted or is not a whole
        number of steps old. While latencies are recorded, not even a suspension whose marks on the
        ages have gone is allowed.
    """
    queue, batches = running_of(w), w.batches_per_step
    parcels = parcels_of(queue)
    first = 0.5 * (batches - 1.0)
    previous, oldest = np.inf, 0
    for i in range(queue.head, queue.tail):
        if parcels[ALIVE, i] > 0.0:
            age = parcels[AGE, i]
            if w.samples_size > 0 and parcels[UNTIL, i] >= 0.0 and _was_suspended(w, parcels, i):
                return False
            steps = (age - first) / batches
            if age != parcels[FURTHEST, i] or steps != np.floor(steps) or steps < 1.0:
                return False
            if age >= previous:
                return False
            previous = age
            oldest = max(oldest, np.int64(steps))
    extent = aligned_extent(w.lanes_size)
    roomy = matrix_at(w.spare_at, COLUMNS, extent)
    tail = w.lanes_size + 2
    head = max(2, tail - oldest)
    for column in range(COLUMNS):
        for i in range(max(2, head - CHUNK), tail):
            roomy[column, i] = 0.0
    for i in range(queue.head, queue.tail):
        if parcels[ALIVE, i] > 0.0:
            place = tail - np.int64((parcels[AGE, i] - first) / batches)
            for column in range(COLUMNS):
                roomy[column, place] = parcels[column, i]
    use_spare(w, queue, extent)
    queue.head, queue.tail = head, tail
    return True


# Unsigned positions spare the loop the check for negative indices, which would keep it scalar;
# slices instead would cost more than the sums.


@compiled(fastmath=REORDER)
def _dot(masses, head, lane, shift, count):
    total = 0.0
    for i in range(np.uint64(count)):
        total += masses[np.uint64(head) + i] * lane[np.uint64(shift) + i]
    return total


@compiled(fastmath=REORDER)
def _dots(masses, head, one, other, shift, count):
    first, second = 0.0, 0.0
    for i in range(np.uint64(count)):
        mass = masses[np.uint64(head) + i]
        first += mass * one[np.uint64(shift) + i]
        second += mass * other[np.uint64(shift) + i]
    return first, second


@compiled
def _write_ages(w):
    """Write the ages that cruising left implicit back into the parcels."""
    queue, tables, batches = running_of(w), tables_of(w), w.batches_per_step
    parcels, tail, theta = parcels_of(queue), queue.tail, w.theta
    first = 0.5 * (batches - 1.0)
    queue.head = max(queue.head, tail - w.lanes_size)
    for i in range(queue.head, tail):
        age = first + (tail - i) * batches
        mass = parcels[MASS, i]
        parcels[AGE, i] = age
        parcels[FURTHEST, i] = age
        parcels[ALIVE, i] = mass * at(tables, SURVIVE, age)
        parcels[PREFILL, i] = mass * at(tables, HELD, age)
        parcels[FIRST_TOKEN, i] = theta - age + 1.0
        parcels[LAST_TOKEN, i] = theta


@compiled
def cruise(w, limit):
    """March an aligned RUNNING with nobody waiting until something binds or ``limit`` steps.

    Nothing of a boundary is consumed unless its whole step is made here.
    """
    queue, tables, lanes = running_of(w), tables_of(w), lanes_of(w)
    parcels, batches, length = parcels_of(queue), w.batches_per_step, w.lanes_size
    backdated = 0.5 * (batches - 1.0)
    survives, holds = at(tables, SURVIVE, backdated), at(tables, HELD, backdated)
    worked = at(tables, WORK, backdated)
    masses, costs = parcels[MASS], lanes[L_COST]
    alives, memories = lanes[L_ALIVE], lanes[L_MEMORY]
    recording = w.samples_size > 0
    while w.steps < limit and queue.tail < queue.extent and w.now < w.end:
        if recording and w.samples + 2 * (queue.tail - queue.head) + 16 > w.samples_size:
            break
        fresh = fresh_arrivals(w)
        held = fresh * tables[0, HELD]
        if w.memory + w.running + held + fresh > w.M_total - w.negligible:
            break
        if w.memory + held > w.admission_threshold * w.M_total - w.negligible:
            break
        tail = queue.tail + 1
        shift = max(0, queue.head - (tail - length)) // CHUNK * CHUNK
        head = tail - length + shift
        masses[tail - 1] = fresh
        tokens = w.memory + w.running + held + fresh
        if batches > 1.0:
            tokens = _dot(masses, head, costs, shift, tail - head)
        alive = w.running + fresh * survives
        if tokens > w.B or is_idle(alive, w.arrived + fresh):
            break
        if batches > 1.0 and w.seen >= w.now:  # after idling: nothing to backdate
            break

        since, until, admitted = w.seen, min(w.now, w.horizon), w.now
        if batches > 1.0:
            middle = 0.5 * (since + w.now)
            half_batch = 0.5 * (w.now - since) / batches
            since, until = middle - half_batch, middle + half_batch
            admitted = until
        parcels[FROM, tail - 1], parcels[UNTIL, tail - 1] = since, until
        parcels[ADMITTED, tail - 1] = admitted
        queue.tail = tail
        w.arrived += fresh
        w.seen = w.now
        w.completed += fresh * (1.0 - survives)
        w.memory += fresh * (holds + backdated * survives)
        w.owed_tokens += fresh * worked
        w.owed_requests += 0.5 * backdated * fresh * (1.0 + survives)

        after, memory = _dots(masses, head, alives, memories, shift, tail - head)
        size = alive if batches == 1.0 else 0.5 * (alive + after)
        duration = step_duration(w, tokens, size)
        row = row_of(w)
        row[R_START] = w.now
        row[R_DURATION] = duration
        row[R_RUNNING] = alive
        row[R_SWAPPED] = 0.0
        row[R_COMPLETED] = w.completed
        row[R_MEMORY] = w.memory
        row[R_TOKENS] = tokens
        row[R_SIZE] = size
        row[R_EVICTED] = w.evicted
        row[R_EMITTED] = 0.0
        if recording:
            row[R_EMITTED] = sample_cruising(w, head, tail - 1, alives, shift, survives)
        w.steps += 1
        w.owed_tokens = 0.0
        w.owed_requests = 0.0
        w.moved = 0.0
        w.completed += alive - after
        w.running = after
        w.memory = memory
        w.useful += batches * tokens + fresh * worked
        w.tokens += batches * size + 0.5 * backdated * fresh * (1.0 + survives)
        w.now += duration
        w.theta += batches
    _write_ages(w)
