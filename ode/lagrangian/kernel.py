"""The iteration clock, compiled: one step is one batch (or several), in the engine's own order."""

from __future__ import annotations

import numpy as np

from ode.lagrangian.batch import (
    execute,
)
from ode.lagrangian.boundary import (
    admit,
    backdate,
    evict,
    join,
)
from ode.lagrangian.cruise import (
    aligned,
    cruise,
)
from ode.lagrangian.parcels import (
    COLUMNS,
    FROM,
    HEAD,
    TAIL,
    UNTIL,
    with_room,
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
    FINISHED,
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
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_SIZE,
    R_START,
    R_SWAPPED,
    R_TOKENS,
    ROWS_FULL,
    RUNNING,
    SACRIFICE,
    SAMPLES_FULL,
    SEEN,
    STALLED,
    SWAPPED,
    THETA,
    THRESHOLD,
    arrivals_by,
    is_idle,
    next_arrival,
    table_time,
)
from serving.compilation import compiled


@compiled
def advance(
    running, running_ends, waiting, waiting_ends, swapped, swapped_ends,
    tables, lanes, knots, cumulative, law_table, spec, state,
    rows, row_count, samples, sample_count,
):  # fmt: skip
    """March until the end, or until a sink is full.

    Parameters
    ----------
    running, waiting, swapped and their ends
        Queues of parcels; storage that grew is returned.
    tables : shape (D_max + 1, 6)
        Of the request mix, see :func:`ode.lagrangian.parcels.mix_tables`.
    lanes : shape (3, L)
        See :func:`ode.lagrangian.cruise.lanes_of`.
    knots, cumulative : shape (K,)
        The arrival curve.
    law_table : shape (3, S)
        Pieces of the batch-time law's table, see :func:`ode.lagrangian.state.table_time`.
    spec, state
        Vectors laid out above; ``state`` is updated in place.
    rows : shape (., ROW_SIZE); samples : shape (., SAMPLE_SIZE)
        Sinks; ``samples`` of length 0 records no latencies.
    row_count, sample_count : shape (1,)
        How many are filled.

    Returns
    -------
    status, running, waiting, swapped
    """
    piece = np.empty(COLUMNS)
    cost, before = np.empty(running.shape[1]), np.empty((2, running.shape[1]))
    batches = spec[BATCHES]
    while True:
        if row_count[0] == rows.shape[0]:
            return ROWS_FULL, running, waiting, swapped
        parcels = (running_ends[TAIL] - running_ends[HEAD] + waiting_ends[TAIL]
                   - waiting_ends[HEAD] + swapped_ends[TAIL] - swapped_ends[HEAD])  # fmt: skip
        if samples.shape[0] > 0 and sample_count[0] + 2 * parcels + 16 > samples.shape[0]:
            return SAMPLES_FULL, running, waiting, swapped
        if state[NOW] >= spec[END]:
            return FINISHED, running, waiting, swapped

        queued = (waiting_ends[TAIL] - waiting_ends[HEAD]
                  + swapped_ends[TAIL] - swapped_ends[HEAD])  # fmt: skip
        if samples.shape[0] == 0 and queued == 0 and (batches == 1.0 or state[THETA] > 0.0):
            slack = state[MEMORY] + state[RUNNING]
            if slack < 0.95 * min(spec[BUDGET], spec[M_TOTAL], spec[THRESHOLD] * spec[M_TOTAL]):
                ok, running = aligned(running, running_ends, lanes, batches)
                if ok:
                    cruise(running, running_ends, tables, lanes, knots, cumulative, law_table, spec,
                           state, rows, row_count)  # fmt: skip
                    if row_count[0] == rows.shape[0] or state[NOW] >= spec[END]:
                        continue

        fresh = arrivals_by(min(state[NOW], spec[HORIZON]), state, knots, cumulative)
        fresh -= state[ARRIVED]
        if fresh > 0.0:
            if waiting_ends[TAIL] == waiting.shape[1]:
                waiting = with_room(waiting, waiting_ends, 0, 1)
            join(waiting, waiting_ends, fresh, tables, spec, state, piece)
            state[ARRIVED] += fresh
        never_queued = fresh > 0.0 and waiting_ends[TAIL] - waiting_ends[HEAD] == 1
        state[SEEN] = state[NOW]

        excess = state[MEMORY] + state[RUNNING] - spec[M_TOTAL]
        if excess > spec[NEGLIGIBLE]:
            victims = running_ends[TAIL] - running_ends[HEAD]
            if spec[SACRIFICE] > 0.0:
                if waiting_ends[HEAD] < victims:
                    waiting = with_room(waiting, waiting_ends, victims, 1)
                evict(running, running_ends, excess, waiting, waiting_ends, spec, state, piece)
            else:
                if swapped.shape[1] - swapped_ends[TAIL] < victims:
                    swapped = with_room(swapped, swapped_ends, 0, victims)
                evict(running, running_ends, excess, swapped, swapped_ends, spec, state, piece)
        else:
            entrants = (waiting_ends[TAIL] - waiting_ends[HEAD]
                        + swapped_ends[TAIL] - swapped_ends[HEAD])  # fmt: skip
            if running.shape[1] - running_ends[TAIL] < entrants:
                running = with_room(running, running_ends, 0, entrants)
            admit(swapped, swapped_ends, running, running_ends, spec, state, True, piece)
            if swapped_ends[TAIL] == swapped_ends[HEAD]:
                admit(waiting, waiting_ends, running, running_ends, spec, state, False, piece)
        empty = waiting_ends[TAIL] == waiting_ends[HEAD]
        fits = state[MEMORY] + state[RUNNING] <= spec[BUDGET]
        newest = running_ends[TAIL] - 1
        in_a_step = never_queued and running[FROM, newest] < running[UNTIL, newest]
        if batches > 1.0 and in_a_step and empty and fits and state[THETA] > 0.0:
            backdate(running, newest, tables, spec, state, samples, sample_count)

        if empty and is_idle(state[RUNNING], state[ARRIVED]):
            until = next_arrival(state, knots, cumulative)
            if until > spec[HORIZON] or until >= spec[END]:
                return FINISHED, running, waiting, swapped
            if until > state[NOW]:
                state[NOW] = until
                state[SEEN] = until
                continue

        row = rows[row_count[0]]
        row[R_START] = state[NOW]
        row[R_RUNNING] = state[RUNNING]
        row[R_SWAPPED] = state[SWAPPED]
        row[R_MEMORY] = state[MEMORY]
        row[R_EVICTED] = state[EVICTED]
        row[R_COMPLETED] = state[COMPLETED]
        if running_ends[TAIL] == running.shape[1]:
            running = with_room(running, running_ends, 1, 1)
        if cost.size < running.shape[1]:
            cost = np.empty(running.shape[1])
            before = np.empty((2, running.shape[1]))
        execute(
            running, running_ends, tables, spec, state, row, samples, sample_count, cost, before
        )  # fmt: skip
        duration = batches * (spec[D_0] + spec[D_KV] * row[R_TOKENS] + spec[D_EXTRA] * row[R_SIZE])
        duration += spec[D_KV] * state[OWED_TOKENS] + spec[D_EXTRA] * state[OWED_REQUESTS]
        duration += spec[D_SWAP] * state[MOVED]
        if law_table.shape[1] > 0:
            size = row[R_SIZE] + state[OWED_REQUESTS] / batches
            duration += batches * table_time(law_table, size)
        state[OWED_TOKENS] = 0.0
        state[OWED_REQUESTS] = 0.0
        state[MOVED] = 0.0
        if duration <= 0.0:
            return STALLED, running, waiting, swapped
        row[R_DURATION] = duration
        row_count[0] += 1
        state[NOW] += duration
        state[THETA] += batches
