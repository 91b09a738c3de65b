"""The iteration clock while nothing binds: every parcel executes, so cohorts only shift.

Ages are then a fixed distance apart and need not be stored: the totals of a step are dot products
of the cohorts' masses with the survival of their ages. Same steps as the general kernel, a
fraction of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode.lagrangian.parcels import (
    ADMITTED,
    AGE,
    ALIVE,
    COLUMNS,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    HEAD,
    HELD,
    MASS,
    PREFILL,
    SURVIVE,
    TAIL,
    UNTIL,
    WORK,
    at,
)
from ode.lagrangian.state import (
    ARRIVED,
    BATCHES,
    BUDGET,
    COMPLETED,
    D_0,
    D_EXTRA,
    D_KV,
    D_SWAP,
    END,
    EVICTED,
    HORIZON,
    M_TOTAL,
    MEMORY,
    MOVED,
    NEGLIGIBLE,
    NOW,
    OWED_REQUESTS,
    OWED_TOKENS,
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
    RUNNING,
    SEEN,
    THETA,
    THRESHOLD,
    TOKENS,
    USEFUL,
    arrivals_by,
    is_idle,
    table_time,
)
from serving.compilation import compiled

L_ALIVE, L_MEMORY, L_COST = range(3)


def lanes_of(tables: NDArray[np.float64], batches: int) -> NDArray[np.float64]:
    """Return what a unit cohort contributes at each age of the grid, oldest first, shape (3, L).

    The newest cohort is at age (h - 1) / 2 when a step of h batches begins, the j-th before it
    h j further. Rows: alive and memory after the step, batch tokens during it.
    """
    k = np.arange(tables.shape[0])
    begin = np.arange(0.5 * (batches - 1), k[-1], batches)
    end = begin + batches
    column = lambda c, x: np.interp(x, k, tables[:, c])  # noqa: E731
    alive = column(SURVIVE, end)
    memory = column(HELD, end) + end * alive
    cost = (column(WORK, end) - column(WORK, begin)) / batches
    return np.ascontiguousarray(np.stack([alive, memory, cost])[:, ::-1])


@compiled
def aligned(queue, ends, lanes, batches):
    """Lay RUNNING out by age, one place per step of age, if its ages allow.

    Returns
    -------
    ok, storage
        Not ok if a parcel was suspended, restarted or is not a whole number of steps old.
    """
    first = 0.5 * (batches - 1.0)
    previous = np.inf
    for i in range(ends[HEAD], ends[TAIL]):
        if queue[ALIVE, i] > 0.0:
            age = queue[AGE, i]
            steps = (age - first) / batches
            if age != queue[FURTHEST, i] or steps != np.floor(steps) or steps < 1.0:
                return False, queue
            if age >= previous:
                return False, queue
            previous = age
    length = lanes.shape[1]
    roomy = np.zeros((COLUMNS, 8 * ((3 * length + 600) // 16) + 8))
    tail = length + 2
    for i in range(ends[HEAD], ends[TAIL]):
        if queue[ALIVE, i] > 0.0:
            place = tail - np.int64((queue[AGE, i] - first) / batches)
            for column in range(COLUMNS):
                roomy[column, place] = queue[column, i]
    ends[HEAD], ends[TAIL] = 2, tail
    return True, roomy


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
def _dated(queue, ends, tables, theta, batches, length):
    """Write the ages that cruising left implicit back into the parcels."""
    first = 0.5 * (batches - 1.0)
    ends[HEAD] = max(ends[HEAD], ends[TAIL] - length)
    for i in range(ends[HEAD], ends[TAIL]):
        age = first + (ends[TAIL] - i) * batches
        mass = queue[MASS, i]
        queue[AGE, i] = age
        queue[FURTHEST, i] = age
        queue[ALIVE, i] = mass * at(tables, SURVIVE, age)
        queue[PREFILL, i] = mass * at(tables, HELD, age)
        queue[FIRST_TOKEN, i] = theta - age + 1.0


@compiled
def cruise(
    queue, ends, tables, lanes, knots, cumulative, law_table, spec, state, rows, row_count
):  # fmt: skip
    """March an aligned RUNNING with nobody waiting until something binds or a sink is full.

    Nothing of a boundary is consumed unless its whole step is made here.
    """
    batches, length = spec[BATCHES], lanes.shape[1]
    backdated = 0.5 * (batches - 1.0)
    survives, holds = at(tables, SURVIVE, backdated), at(tables, HELD, backdated)
    worked = at(tables, WORK, backdated)
    masses, costs = queue[MASS], lanes[L_COST]
    alives, memories = lanes[L_ALIVE], lanes[L_MEMORY]
    while row_count[0] < rows.shape[0] and ends[TAIL] < queue.shape[1] and state[NOW] < spec[END]:
        fresh = arrivals_by(min(state[NOW], spec[HORIZON]), state, knots, cumulative)
        fresh -= state[ARRIVED]
        held = fresh * tables[0, HELD]
        if state[MEMORY] + state[RUNNING] + held + fresh > spec[M_TOTAL] - spec[NEGLIGIBLE]:
            break
        if state[MEMORY] + held > spec[THRESHOLD] * spec[M_TOTAL] - spec[NEGLIGIBLE]:
            break
        tail = ends[TAIL] + 1
        head = max(ends[HEAD], tail - length)
        shift = length - (tail - head)
        masses[tail - 1] = fresh
        tokens = state[MEMORY] + state[RUNNING] + held + fresh
        if batches > 1.0:
            tokens = _dot(masses, head, costs, shift, tail - head)
        alive = state[RUNNING] + fresh * survives
        if tokens > spec[BUDGET] or is_idle(alive, state[ARRIVED] + fresh):
            break
        if batches > 1.0 and state[SEEN] >= state[NOW]:  # after idling: nothing to backdate
            break

        queue[FROM, tail - 1] = state[SEEN]
        queue[UNTIL, tail - 1] = state[NOW] if batches > 1.0 else min(state[NOW], spec[HORIZON])
        queue[ADMITTED, tail - 1] = state[NOW]
        if batches > 1.0:
            middle = 0.5 * (queue[FROM, tail - 1] + queue[UNTIL, tail - 1])
            half_batch = 0.5 * (queue[UNTIL, tail - 1] - queue[FROM, tail - 1]) / batches
            queue[FROM, tail - 1], queue[UNTIL, tail - 1] = middle - half_batch, middle + half_batch
            queue[ADMITTED, tail - 1] = middle + half_batch
        ends[TAIL] = tail
        state[ARRIVED] += fresh
        state[SEEN] = state[NOW]
        state[COMPLETED] += fresh * (1.0 - survives)
        state[MEMORY] += fresh * (holds + backdated * survives)
        owed_tokens = state[OWED_TOKENS] + fresh * worked
        owed_requests = state[OWED_REQUESTS] + 0.5 * backdated * fresh * (1.0 + survives)

        after, memory = _dots(masses, head, alives, memories, shift, tail - head)
        size = alive if batches == 1.0 else 0.5 * (alive + after)
        duration = batches * (spec[D_0] + spec[D_KV] * tokens + spec[D_EXTRA] * size)
        duration += spec[D_KV] * owed_tokens + spec[D_EXTRA] * owed_requests
        duration += spec[D_SWAP] * state[MOVED]
        if law_table.shape[1] > 0:
            duration += batches * table_time(law_table, size + owed_requests / batches)
        row = row_count[0]
        rows[row, R_START] = state[NOW]
        rows[row, R_DURATION] = duration
        rows[row, R_RUNNING] = alive
        rows[row, R_SWAPPED] = 0.0
        rows[row, R_COMPLETED] = state[COMPLETED]
        rows[row, R_MEMORY] = state[MEMORY]
        rows[row, R_TOKENS] = tokens
        rows[row, R_SIZE] = size
        rows[row, R_EVICTED] = state[EVICTED]
        rows[row, R_EMITTED] = 0.0
        row_count[0] += 1
        state[OWED_TOKENS] = 0.0
        state[OWED_REQUESTS] = 0.0
        state[MOVED] = 0.0
        state[COMPLETED] += alive - after
        state[RUNNING] = after
        state[MEMORY] = memory
        state[USEFUL] += batches * tokens + fresh * worked
        state[TOKENS] += batches * size + 0.5 * backdated * fresh * (1.0 + survives)
        state[NOW] += duration
        state[THETA] += batches
    _dated(queue, ends, tables, state[THETA], batches, length)
