"""The iteration clock, compiled: one step is one batch (or several), in the engine's own order."""

from __future__ import annotations

import numpy as np

from ode._cruise import aligned, cruise
from ode._lagrangian_state import (
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
    R_EMITTED,
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_SIZE,
    R_START,
    R_SWAPPED,
    R_TOKENS,
    REORDER,
    ROWS_FULL,
    RUNNING,
    S_ADMITTED,
    S_FINISH,
    S_FIRST_TOKEN,
    S_FROM,
    S_LENGTH,
    S_UNTIL,
    S_WEIGHT,
    SACRIFICE,
    SAMPLES_FULL,
    SEEN,
    STALLED,
    SWAPPED,
    THETA,
    THRESHOLD,
    TOKENS,
    USEFUL,
    WASTED,
    arrivals_by,
    is_idle,
    next_arrival,
)
from ode._parcels import (
    ADMITTED,
    AGE,
    ALIVE,
    COLUMNS,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    HEAD,
    HELD,
    LAST_TOKEN,
    MASS,
    PREFILL,
    SURVIVE,
    TAIL,
    UNTIL,
    WORK,
    at,
    push_head,
    push_tail,
    split,
    take,
    with_room,
)
from serving.compilation import compiled

# A parcel that takes more than this share of the budget is split at its edge, not blurred.
COARSE = 0.005


@compiled
def evict(queue, ends, excess, to, to_ends, spec, state, piece):
    """Remove from the tail of RUNNING until ``excess`` tokens (memory and growth) are freed."""
    while excess > spec[NEGLIGIBLE] and ends[TAIL] > ends[HEAD]:
        i = ends[TAIL] - 1
        frees = queue[PREFILL, i] + (queue[AGE, i] + 1) * queue[ALIVE, i]
        if frees <= 0.0:
            ends[TAIL] -= 1
            continue
        share = min(1.0, excess / frees)
        excess -= share * frees
        take(queue, ends, share, True, piece)
        held = piece[PREFILL] + piece[AGE] * piece[ALIVE]
        state[EVICTED] += piece[ALIVE]
        state[RUNNING] -= piece[ALIVE]
        state[MEMORY] -= held
        if spec[SACRIFICE] > 0.0:
            state[WASTED] += piece[AGE] * piece[ALIVE]
            piece[AGE] = 0.0
            push_head(to, to_ends, piece)
        else:
            state[MOVED] += held
            state[SWAPPED] += piece[ALIVE]
            push_tail(to, to_ends, piece)


@compiled
def admit(source, ends, queue, queue_ends, spec, state, is_swapped, piece):
    """Fill RUNNING from the head of a queue while memory and the threshold allow."""
    while ends[TAIL] > ends[HEAD]:
        i = ends[HEAD]
        held = source[PREFILL, i] + source[AGE, i] * source[ALIVE, i]
        share = 1.0
        if held > 0.0:
            room = spec[M_TOTAL] - state[MEMORY] - state[RUNNING]
            below = spec[THRESHOLD] * spec[M_TOTAL] - state[MEMORY]
            share = min(1.0, room / (held + source[ALIVE, i]), below / held)
            if share * held <= spec[NEGLIGIBLE] and share < 1.0:
                break
        take(source, ends, share, False, piece)
        held = piece[PREFILL] + piece[AGE] * piece[ALIVE]
        state[MEMORY] += held
        state[RUNNING] += piece[ALIVE]
        if is_swapped:
            state[MOVED] += held
            state[SWAPPED] -= piece[ALIVE]
        if piece[ADMITTED] < 0.0:
            piece[ADMITTED] = state[NOW]
        push_tail(queue, queue_ends, piece)


@compiled
def sample_completion(queue, i, weight, finish, length, samples, sample_count):
    """Record the latencies of the mass that completes."""
    sample = samples[sample_count[0]]
    sample[S_WEIGHT] = weight
    sample[S_FROM] = queue[FROM, i]
    sample[S_UNTIL] = queue[UNTIL, i]
    sample[S_ADMITTED] = queue[ADMITTED, i]
    sample[S_FIRST_TOKEN] = queue[FIRST_TOKEN, i]
    sample[S_FINISH] = finish
    sample[S_LENGTH] = length
    sample_count[0] += 1


@compiled
def join(waiting, ends, fresh, tables, spec, state, piece):
    """Append the arrivals since the last look to WAITING as one parcel."""
    piece[:] = 0.0
    piece[MASS] = fresh
    piece[ALIVE] = fresh
    piece[PREFILL] = fresh * tables[0, HELD]
    piece[FROM] = state[SEEN]
    piece[UNTIL] = min(state[NOW], spec[HORIZON])
    piece[ADMITTED] = -1.0
    push_tail(waiting, ends, piece)


@compiled
def backdate(queue, i, tables, spec, state, samples, sample_count):
    """Give a parcel that never queued the batches it executed within a step of several.

    Within a step of h batches arrivals join at every batch; at its end they have executed
    (h - 1) / 2 on average, and waited half a batch. The work is charged to the next step.
    """
    age = 0.5 * (spec[BATCHES] - 1.0)
    mass, fresh = queue[MASS, i], queue[ALIVE, i]
    alive, held = mass * at(tables, SURVIVE, age), mass * at(tables, HELD, age)
    work = mass * at(tables, WORK, age)
    state[RUNNING] += alive - fresh
    state[MEMORY] += held + age * alive - queue[PREFILL, i]
    state[COMPLETED] += fresh - alive
    state[OWED_TOKENS] += work
    state[OWED_REQUESTS] += 0.5 * age * (fresh + alive)
    state[USEFUL] += work
    state[TOKENS] += 0.5 * age * (fresh + alive)
    middle = 0.5 * (queue[FROM, i] + queue[UNTIL, i])
    half_batch = 0.5 * (queue[UNTIL, i] - queue[FROM, i]) / spec[BATCHES]
    queue[FROM, i], queue[UNTIL, i] = middle - half_batch, middle + half_batch
    queue[ADMITTED, i] = middle + half_batch
    if samples.shape[0] > 0 and fresh > alive:
        length = 0.5 * (age + 1.0)
        queue[FIRST_TOKEN, i] = state[THETA] - age + 1.0
        finish = state[THETA] - age + length
        sample_completion(queue, i, fresh - alive, finish, length, samples, sample_count)
    # below one token on average, the rest of the first token is added when it is executed
    queue[FIRST_TOKEN, i] = age * state[THETA] if age < 1.0 else state[THETA] - age + 1.0
    queue[LAST_TOKEN, i] = state[THETA]
    queue[AGE, i] = age
    queue[FURTHEST, i] = age
    queue[ALIVE, i] = alive
    queue[PREFILL, i] = held


@compiled(fastmath=REORDER)
def price(queue, first, last, tables, batches, cost):
    """Write the batch tokens of each parcel, per batch of the step, into ``cost``; return the sum.

    Notes
    -----
    A parcel that re-executes after a sacrifice thins out only beyond its furthest position.
    """
    total = 0.0
    if batches == 1.0:
        for i in range(first, last):
            cost[i] = queue[PREFILL, i] + (queue[AGE, i] + 1.0) * queue[ALIVE, i]
            total += cost[i]
        return total
    rows = tables.shape[0] - 1
    for i in range(first, last):
        age = queue[AGE, i]
        tokens = queue[PREFILL, i] + (age + 0.5 * (batches + 1.0)) * queue[ALIVE, i]
        if age >= queue[FURTHEST, i]:
            end = age + batches
            k, m = min(np.int32(age), rows), min(np.int32(end), rows)
            before = tables[k, WORK] + (age - k) * tables[k, WORK + 1]
            after = tables[m, WORK] + (end - m) * tables[m, WORK + 1]
            tokens = queue[MASS, i] * (after - before) / batches
        cost[i] = tokens
        total += tokens
    return total


@compiled(fastmath=REORDER)
def age_parcels(queue, first, last, step, tables, theta, state):
    """Advance parcels by ``step`` tokens, thin them, and update the totals; no branches."""
    rows = tables.shape[0] - 1
    alive_change, memory_change, useful, size, emitted = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(first, last):
        age, furthest, alive = queue[AGE, i], queue[FURTHEST, i], queue[ALIVE, i]
        new_age = age + step
        reached = max(furthest, new_age)
        k = min(np.int32(reached), rows)
        into = reached - k
        new_alive = queue[MASS, i] * (tables[k, SURVIVE] + into * tables[k, SURVIVE + 1])
        new_held = queue[MASS, i] * (tables[k, HELD] + into * tables[k, HELD + 1])
        alive_change += new_alive - alive
        size += alive
        memory_change += new_held + new_age * new_alive - queue[PREFILL, i] - age * alive
        tokens = queue[PREFILL, i] + (age + 0.5 * (step + 1.0)) * alive
        useful += tokens * (reached - furthest)
        emitted += alive * (reached - furthest)
        first_token = min(1.0, reached) - min(1.0, furthest)
        queue[FIRST_TOKEN, i] += first_token * (theta + 1.0)
        queue[AGE, i] = new_age
        queue[FURTHEST, i] = reached
        queue[ALIVE, i] = new_alive
        queue[PREFILL, i] = new_held
    state[RUNNING] += alive_change
    state[COMPLETED] -= alive_change
    state[MEMORY] += memory_change
    state[USEFUL] += useful
    state[TOKENS] += emitted
    return size, size + alive_change


@compiled
def sample_step(queue, first, last, batches, theta, before, samples, sample_count):
    """Record the completions of a step and the gaps of those that resume; return tokens emitted.

    Tokens that follow one of the previous step are returned, not recorded: their inter-token
    latency is the batch's duration.
    """
    finish = theta + 0.5 * (batches + 1.0)
    emitted = 0.0
    for i in range(first, last):
        alive, furthest, reached = before[0, i], before[1, i], queue[FURTHEST, i]
        if reached <= furthest:
            continue
        tokens = alive * (reached - max(furthest, 1.0))
        if tokens > 0.0:
            if queue[LAST_TOKEN, i] < theta:
                once = min(tokens, alive)
                sample = samples[sample_count[0]]
                sample[S_WEIGHT] = once
                sample[S_FIRST_TOKEN] = queue[LAST_TOKEN, i]
                sample[S_FINISH] = theta + 1.0
                sample[S_LENGTH] = -1.0
                sample_count[0] += 1
                tokens -= once
            emitted += tokens
        queue[LAST_TOKEN, i] = theta + batches
        done = alive - queue[ALIVE, i]
        if done > 1e-15 * alive:
            length = 0.5 * (furthest + reached + 1.0)
            sample_completion(queue, i, done, finish, length, samples, sample_count)
    return emitted


@compiled
def execute(queue, ends, tables, spec, state, row, samples, sample_count, cost, before):
    """Execute the longest prefix of RUNNING within the budget; fill the row's batch columns.

    The parcel at the edge of the budget is split in two where it is coarse; otherwise all of it
    advances by the fraction of it that executes, which keeps the number of parcels bounded.
    ``cost`` and ``before`` (2, .) are scratch as long as the queue.
    """
    while ends[TAIL] > ends[HEAD] and queue[ALIVE, ends[HEAD]] <= 0.0:
        ends[HEAD] += 1
    batches, budget, theta = spec[BATCHES], spec[BUDGET], state[THETA]
    whole = ends[TAIL]
    share = 0.0
    tokens = state[MEMORY] + state[RUNNING]
    if batches > 1.0 or tokens > budget:
        tokens = price(queue, ends[HEAD], ends[TAIL], tables, batches, cost)
    if tokens > budget:
        # the sum in order may stay within the budget that the total exceeded by rounding
        tokens, whole = 0.0, ends[HEAD]
        while whole < ends[TAIL] and tokens + cost[whole] <= budget:
            tokens += cost[whole]
            whole += 1
        if whole < ends[TAIL]:
            share = (budget - tokens) / cost[whole]
            tokens = budget
            if cost[whole] > COARSE * budget and share > 0.0:
                whole = split(queue, ends, whole, share) + 1
                share = 0.0
    first = ends[HEAD]
    recording = samples.shape[0] > 0
    if recording:
        before[0, first : whole + 1] = queue[ALIVE, first : whole + 1]
        before[1, first : whole + 1] = queue[FURTHEST, first : whole + 1]
    size, size_after = age_parcels(queue, first, whole, batches, tables, theta, state)
    if share > 0.0:
        one, one_after = age_parcels(queue, whole, whole + 1, share * batches, tables, theta, state)
        size += share * one
        size_after += share * one_after
        whole += 1
    row[R_TOKENS] = tokens
    row[R_SIZE] = size if batches == 1.0 else 0.5 * (size + size_after)
    row[R_EMITTED] = 0.0
    if recording:
        row[R_EMITTED] = sample_step(
            queue, first, whole, batches, theta, before, samples, sample_count
        )


@compiled
def advance(
    running, running_ends, waiting, waiting_ends, swapped, swapped_ends,
    tables, lanes, knots, cumulative, spec, state,
    rows, row_count, samples, sample_count,
):  # fmt: skip
    """March until the end, or until a sink is full.

    Parameters
    ----------
    running, waiting, swapped and their ends
        Queues of parcels; storage that grew is returned.
    tables : shape (D_max + 1, 6)
        Of the request mix, see :func:`ode._parcels.mix_tables`.
    lanes : shape (3, L)
        See :func:`ode._cruise.lanes_of`.
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
                    cruise(running, running_ends, tables, lanes, knots, cumulative, spec, state,
                           rows, row_count)  # fmt: skip
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
        if batches > 1.0 and never_queued and empty and fits and state[THETA] > 0.0:
            newest = running_ends[TAIL] - 1
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
        state[OWED_TOKENS] = 0.0
        state[OWED_REQUESTS] = 0.0
        state[MOVED] = 0.0
        if duration <= 0.0:
            return STALLED, running, waiting, swapped
        row[R_DURATION] = duration
        row_count[0] += 1
        state[NOW] += duration
        state[THETA] += batches
