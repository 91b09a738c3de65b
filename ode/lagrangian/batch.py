"""What a batch of the iteration clock does: price parcels, execute a prefix, thin them."""

from __future__ import annotations

import numpy as np

from ode.lagrangian.parcels import (
    AGE,
    ALIVE,
    FIRST_TOKEN,
    FURTHEST,
    HEAD,
    HELD,
    MASS,
    PREFILL,
    SURVIVE,
    TAIL,
    WORK,
    split,
)
from ode.lagrangian.sampling import (
    sample_step,
)
from ode.lagrangian.state import (
    BATCHES,
    BUDGET,
    COMPLETED,
    MEMORY,
    R_EMITTED,
    R_SIZE,
    R_TOKENS,
    REORDER,
    RUNNING,
    THETA,
    TOKENS,
    USEFUL,
)
from serving.compilation import compiled

# A parcel that takes more than this share of the budget is split at its edge, not blurred.
COARSE = 0.005


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
