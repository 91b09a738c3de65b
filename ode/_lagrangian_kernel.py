"""The iteration clock, compiled: one step is one batch (or several), in the engine's own order."""

from __future__ import annotations

import numpy as np
from numba import njit

from ode._parcels import (
    ADMITTED,
    AGE,
    ALIVE,
    COLUMNS,
    COUNT,
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
    cut,
    push_head,
    push_tail,
)

# What an instance and a workload are to the kernel: a float64 vector.
(
    M_TOTAL,
    BUDGET,
    THRESHOLD,
    D_0,
    D_KV,
    D_EXTRA,
    D_SWAP,
    SACRIFICE,
    HORIZON,
    END,
    BATCHES,
    NEGLIGIBLE,
) = range(12)
SPEC_SIZE = 12

# What the kernel carries from call to call besides the queues: a float64 vector.
(
    NOW,
    SEEN,
    ARRIVED,
    COMPLETED,
    RUNNING,
    MEMORY,
    SWAPPED,
    MOVED,
    OWED_TOKENS,
    OWED_REQUESTS,
    EVICTED,
    WASTED,
    USEFUL,
    THETA,
    KNOT,
) = range(15)
STATE_SIZE = 15

# One row per step.
(R_START, R_DURATION, R_RUNNING, R_SWAPPED, R_COMPLETED, R_MEMORY, R_TOKENS, R_SIZE, R_EVICTED) = (
    range(9)
)
ROW_SIZE = 9

# One sample per parcel and step with completions; first token and finish are positions on the
# iteration clock theta (batches executed), which the rows translate into times.
S_WEIGHT, S_FROM, S_UNTIL, S_ADMITTED, S_FIRST_TOKEN, S_FINISH, S_LENGTH = range(7)
SAMPLE_SIZE = 7

FINISHED, ROWS_FULL, SAMPLES_FULL, STALLED = range(4)


@njit(cache=True)
def arrivals_by(t, state, knots, cumulative):
    """Return the cumulative curve at ``t``; a cursor in ``state`` makes it O(1) amortised."""
    k = int(state[KNOT])
    while k + 1 < knots.size and knots[k + 1] <= t:
        k += 1
    state[KNOT] = k
    if k + 1 == knots.size or t <= knots[k]:
        return cumulative[k]
    rise = (cumulative[k + 1] - cumulative[k]) / (knots[k + 1] - knots[k])
    return cumulative[k] + (t - knots[k]) * rise


@njit(cache=True)
def next_arrival(state, knots, cumulative):
    """Return the first time >= now at which the curve rises again; infinity if never."""
    for k in range(int(state[KNOT]), knots.size - 1):
        if cumulative[k + 1] > max(cumulative[k], state[ARRIVED]):
            return max(state[NOW], knots[k] if knots[k + 1] > knots[k] else knots[k + 1])
    return np.inf


@njit(cache=True)
def evict(queue, ends, excess, to, to_ends, spec, state, piece):
    """Remove from the tail of RUNNING until ``excess`` tokens (memory and growth) are freed."""
    mask = queue.shape[0] - 1
    while excess > spec[NEGLIGIBLE] and ends[TAIL] > ends[HEAD]:
        parcel = queue[(ends[TAIL] - 1) & mask]
        frees = parcel[PREFILL] + (parcel[AGE] + 1) * parcel[ALIVE]
        if frees <= 0.0:
            ends[TAIL] -= 1
            continue
        share = min(1.0, excess / frees)
        excess -= share * frees
        if share < 1.0:
            cut(parcel, share, True, piece)
        else:
            piece[:] = parcel
            ends[TAIL] -= 1
        state[EVICTED] += piece[ALIVE]
        state[RUNNING] -= piece[ALIVE]
        held = piece[PREFILL] + piece[AGE] * piece[ALIVE]
        state[MEMORY] -= held
        if spec[SACRIFICE] > 0.0:
            state[WASTED] += piece[AGE] * piece[ALIVE]
            piece[AGE] = 0.0
            to = push_head(to, to_ends, piece)
        else:
            state[MOVED] += held
            state[SWAPPED] += piece[ALIVE]
            to = push_tail(to, to_ends, piece)
    return to


@njit(cache=True)
def admit(source, ends, queue, queue_ends, spec, state, is_swapped, piece):
    """Fill RUNNING from the head of a queue while memory and the threshold allow."""
    mask = source.shape[0] - 1
    while ends[TAIL] > ends[HEAD]:
        parcel = source[ends[HEAD] & mask]
        held = parcel[PREFILL] + parcel[AGE] * parcel[ALIVE]
        share = 1.0
        if held > 0.0:
            room = spec[M_TOTAL] - state[MEMORY] - state[RUNNING]
            below = spec[THRESHOLD] * spec[M_TOTAL] - state[MEMORY]
            share = min(1.0, room / (held + parcel[ALIVE]), below / held)
            if share * held <= spec[NEGLIGIBLE] and share < 1.0:
                break
        if share < 1.0:
            cut(parcel, share, False, piece)
        else:
            piece[:] = parcel
            ends[HEAD] += 1
        held *= share
        state[MEMORY] += held
        state[RUNNING] += piece[ALIVE]
        if is_swapped:
            state[MOVED] += held
            state[SWAPPED] -= piece[ALIVE]
        if piece[ADMITTED] < 0.0:
            piece[ADMITTED] = state[NOW]
        queue = push_tail(queue, queue_ends, piece)
    return queue


@njit(cache=True)
def sample_completion(parcel, weight, finish, length, samples, sample_count):
    """Record the latencies of the mass that completes."""
    sample = samples[sample_count[0]]
    sample[S_WEIGHT] = weight
    sample[S_FROM] = parcel[FROM]
    sample[S_UNTIL] = parcel[UNTIL]
    sample[S_ADMITTED] = parcel[ADMITTED]
    sample[S_FIRST_TOKEN] = parcel[FIRST_TOKEN]
    sample[S_FINISH] = finish
    sample[S_LENGTH] = length
    sample_count[0] += 1


@njit(cache=True)
def join(waiting, ends, fresh, tables, spec, state, piece):
    """Append the arrivals since the last look to WAITING as one parcel."""
    piece[:] = 0.0
    piece[MASS] = fresh
    piece[ALIVE] = fresh
    piece[PREFILL] = fresh * tables[0, HELD]
    piece[FROM] = state[SEEN]
    piece[UNTIL] = min(state[NOW], spec[HORIZON])
    piece[ADMITTED] = -1.0
    return push_tail(waiting, ends, piece)


@njit(cache=True)
def backdate(parcel, tables, spec, state, samples, sample_count):
    """Give a parcel that never queued the batches it executed within a step of several.

    Within a step of h batches arrivals join at every batch; at its end they have executed
    (h - 1) / 2 on average, and waited half a batch. The work is charged to the next step.
    """
    age = 0.5 * (spec[BATCHES] - 1.0)
    mass, fresh = parcel[MASS], parcel[ALIVE]
    alive, held = mass * at(tables, SURVIVE, age), mass * at(tables, HELD, age)
    work = mass * at(tables, WORK, age)
    state[RUNNING] += alive - fresh
    state[MEMORY] += held + age * alive - parcel[PREFILL]
    state[COMPLETED] += fresh - alive
    state[OWED_TOKENS] += work
    state[OWED_REQUESTS] += mass * at(tables, COUNT, age)
    state[USEFUL] += work
    middle = 0.5 * (parcel[FROM] + parcel[UNTIL])
    half_batch = 0.5 * (parcel[UNTIL] - parcel[FROM]) / spec[BATCHES]
    parcel[FROM], parcel[UNTIL] = middle - half_batch, middle + half_batch
    parcel[ADMITTED] = middle + half_batch
    if samples.shape[0] > 0 and fresh > alive:
        length = 0.5 * (age + 1.0)
        parcel[FIRST_TOKEN] = state[THETA] - age + 1.0
        finish = state[THETA] - age + length
        sample_completion(parcel, fresh - alive, finish, length, samples, sample_count)
    # below one token on average, the rest of the first token is added when it is executed
    parcel[FIRST_TOKEN] = age * state[THETA] if age < 1.0 else state[THETA] - age + 1.0
    parcel[AGE] = age
    parcel[FURTHEST] = age
    parcel[ALIVE] = alive
    parcel[PREFILL] = held


@njit(cache=True, error_model="numpy")
def execute(running, ends, tables, spec, state, row, samples, sample_count):
    """Execute the longest prefix of RUNNING within the budget; fill the row's batch columns."""
    mask = running.shape[0] - 1
    last = tables.shape[0] - 1
    batches, budget, theta = spec[BATCHES], spec[BUDGET], state[THETA]
    recording = samples.shape[0] > 0
    # sums live in registers, not in `state`: this is the hot loop
    tokens, size, alive_change, memory_change, completed, useful = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    while ends[TAIL] > ends[HEAD] and running[ends[HEAD] & mask, ALIVE] <= 0.0:
        ends[HEAD] += 1
    for j in range(ends[HEAD], ends[TAIL]):
        i = j & mask  # scalar indexing: a view of the row would cost more than the step
        alive = running[i, ALIVE]
        if alive <= 0.0:
            continue
        left = budget - tokens
        if left <= 0.0:
            break
        age, furthest = running[i, AGE], running[i, FURTHEST]
        mass, prefill = running[i, MASS], running[i, PREFILL]
        if batches == 1.0:
            cost = prefill + (age + 1.0) * alive
            requests = alive
        elif age >= furthest:
            cost = mass * (at(tables, WORK, age + batches) - at(tables, WORK, age)) / batches
            requests = mass * (at(tables, COUNT, age + batches) - at(tables, COUNT, age)) / batches
        else:
            cost = prefill + (age + 0.5 * (batches + 1.0)) * alive
            requests = alive
        share = 1.0 if cost <= left else left / cost
        tokens += share * cost
        size += share * requests
        new_age = age + share * batches
        running[i, AGE] = new_age
        if new_age <= furthest:
            memory_change += (new_age - age) * alive
            continue
        new_alive, new_prefill = 0.0, 0.0
        k = int(new_age)
        if k < last:
            into = new_age - k
            new_alive = mass * (tables[k, SURVIVE] + into * tables[k, SURVIVE + 1])
            new_prefill = mass * (tables[k, HELD] + into * tables[k, HELD + 1])
        alive_change += new_alive - alive
        memory_change += new_prefill + new_age * new_alive - prefill - age * alive
        before = max(age, furthest)
        if before == age:
            useful += share * cost
        else:
            useful += share * cost * (new_age - before) / (new_age - age)
        if before < 1.0:
            running[i, FIRST_TOKEN] += (min(1.0, new_age) - before) * (theta + 1.0)
        done = alive - new_alive
        if done > 0.0:
            completed += done
            if recording:
                finish = theta + 0.5 * (batches + 1.0)
                length = 0.5 * (before + new_age + 1.0)
                sample_completion(running[i], done, finish, length, samples, sample_count)
        running[i, FURTHEST] = new_age
        running[i, ALIVE] = new_alive
        running[i, PREFILL] = new_prefill
    row[R_TOKENS] = tokens
    row[R_SIZE] = size
    state[RUNNING] += alive_change
    state[MEMORY] += memory_change
    state[COMPLETED] += completed
    state[USEFUL] += batches * useful


@njit(cache=True)
def advance(
    running, running_ends, waiting, waiting_ends, swapped, swapped_ends,
    tables, knots, cumulative, spec, state,
    rows, row_count, samples, sample_count,
):  # fmt: skip
    """March until the end, or until a sink is full.

    Parameters
    ----------
    running, waiting, swapped and their ends
        Queues of parcels; storage that grew is returned.
    tables : shape (D_max + 1, 8)
        Of the request mix, see :func:`ode._parcels.mix_tables`.
    knots, cumulative : shape (K,)
        The arrival curve.
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
    batches = spec[BATCHES]
    while True:
        if row_count[0] == rows.shape[0]:
            return ROWS_FULL, running, waiting, swapped
        parcels = (running_ends[TAIL] - running_ends[HEAD] + waiting_ends[TAIL]
                   - waiting_ends[HEAD] + swapped_ends[TAIL] - swapped_ends[HEAD])  # fmt: skip
        if samples.shape[0] > 0 and sample_count[0] + parcels + 4 > samples.shape[0]:
            return SAMPLES_FULL, running, waiting, swapped
        if state[NOW] >= spec[END]:
            return FINISHED, running, waiting, swapped

        fresh = arrivals_by(min(state[NOW], spec[HORIZON]), state, knots, cumulative)
        fresh -= state[ARRIVED]
        if fresh > 0.0:
            waiting = join(waiting, waiting_ends, fresh, tables, spec, state, piece)
            state[ARRIVED] += fresh
        never_queued = fresh > 0.0 and waiting_ends[TAIL] - waiting_ends[HEAD] == 1
        state[SEEN] = state[NOW]

        excess = state[MEMORY] + state[RUNNING] - spec[M_TOTAL]
        if excess > spec[NEGLIGIBLE]:
            if spec[SACRIFICE] > 0.0:
                waiting = evict(running, running_ends, excess, waiting, waiting_ends, spec,
                                state, piece)  # fmt: skip
            else:
                swapped = evict(running, running_ends, excess, swapped, swapped_ends, spec,
                                state, piece)  # fmt: skip
        else:
            running = admit(swapped, swapped_ends, running, running_ends, spec, state, True, piece)
            if swapped_ends[TAIL] == swapped_ends[HEAD]:
                running = admit(
                    waiting, waiting_ends, running, running_ends, spec, state, False, piece
                )
        empty = waiting_ends[TAIL] == waiting_ends[HEAD]
        fits = state[MEMORY] + state[RUNNING] <= spec[BUDGET]
        if batches > 1.0 and never_queued and empty and fits and state[THETA] > 0.0:
            newest = running[(running_ends[TAIL] - 1) & (running.shape[0] - 1)]
            backdate(newest, tables, spec, state, samples, sample_count)

        if state[RUNNING] <= 1e-12 * max(1.0, state[ARRIVED]) and empty:
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
        execute(running, running_ends, tables, spec, state, row, samples, sample_count)
        duration = batches * (spec[D_0] + spec[D_KV] * row[R_TOKENS] + spec[D_EXTRA] * row[R_SIZE])
        duration += spec[D_KV] * state[OWED_TOKENS] + spec[D_EXTRA] * state[OWED_REQUESTS]
        duration += spec[D_SWAP] * state[MOVED]
        state[OWED_TOKENS] = 0.0
        state[OWED_REQUESTS] = 0.0
        state[MOVED] = 0.0
        if duration <= 0.0:
            return STALLED, running, waiting, swapped
        row[R_DURATION] = duration
        row_count[0] += 1
        state[NOW] += duration
        state[THETA] += batches
