"""What a batch of the iteration clock does: price parcels, execute a prefix, thin them."""

from __future__ import annotations

import numpy as np

from ode.lagrangian.layout import (
    AGE,
    ALIVE,
    FIRST_TOKEN,
    FURTHEST,
    HELD,
    MASS,
    OF,
    PREFILL,
    R_EMITTED,
    R_SIZE,
    R_TOKENS,
    REORDER,
    SURVIVE,
    WORK,
)
from ode.lagrangian.memory import parcels_of, running_of, tables_of_all
from ode.lagrangian.parcels import split
from ode.lagrangian.sampling import sample_step
from serving.batch_kernel import batch_duration
from serving.compilation import compiled
from serving.compiled_memory import matrix_at, vector_at

COARSE = 0.005
"""Share of the token budget beyond which a parcel at its edge is split there, not blurred."""


@compiled
def step_duration(w, tokens, requests):
    """Return how long [time] a step takes, with what earlier steps left to be paid for.

    Parameters
    ----------
    tokens : [tokens]
        Mean batch tokens of the batches of the step.
    requests : [requests]
        Mean requests that its batches execute.
    """
    h = w.batches_per_step
    tokens += w.owed_tokens / h
    return h * batch_duration(w.law_at, tokens, requests + w.owed_requests / h, w.moved / h)


def _pricing(by_class):
    """Return the function that prices parcels, of one mix or of several classes."""

    @compiled(fastmath=REORDER)
    def price(w, first, last, batches):
        """Write the batch tokens of each parcel, per batch, as its cost; return the sum.

        Notes
        -----
        A parcel that re-executes after a sacrifice thins out only beyond its furthest position.
        """
        queue = running_of(w)
        parcels, tables = parcels_of(queue), tables_of_all(w)
        cost = vector_at(w.cost_at, queue.extent)
        total = 0.0
        if batches == 1.0:
            for i in range(first, last):
                cost[i] = parcels[PREFILL, i] + (parcels[AGE, i] + 1.0) * parcels[ALIVE, i]
                total += cost[i]
            return total
        rows = w.tables_size - 1
        for i in range(first, last):
            age = parcels[AGE, i]
            tokens = parcels[PREFILL, i] + (age + 0.5 * (batches + 1.0)) * parcels[ALIVE, i]
            if age >= parcels[FURTHEST, i]:
                end = age + batches
                k, m = min(np.int32(age), rows), min(np.int32(end), rows)
                into, beyond = age - k, end - m
                if by_class:
                    below = np.int32(parcels[OF, i]) * w.tables_size
                    k, m = k + below, m + below
                before = tables[k, WORK] + into * tables[k, WORK + 1]
                after = tables[m, WORK] + beyond * tables[m, WORK + 1]
                tokens = parcels[MASS, i] * (after - before) / batches
            cost[i] = tokens
            total += tokens
        return total

    return price


def _aging(by_class):
    """Return the function that ages parcels, of one mix or of several classes."""

    @compiled(fastmath=REORDER)
    def age_parcels(w, first, last, step):
        """Advance parcels of RUNNING by ``step`` tokens, thin them, update the totals; no branches.

        Returns
        -------
        before, after : [requests]
            How many of them were alive and are.
        """
        parcels, tables, theta = parcels_of(running_of(w)), tables_of_all(w), w.theta
        rows = w.tables_size - 1
        alive_change, memory_change, useful, size, emitted = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(first, last):
            age, furthest, alive = parcels[AGE, i], parcels[FURTHEST, i], parcels[ALIVE, i]
            new_age = age + step
            reached = max(furthest, new_age)
            k = min(np.int32(reached), rows)
            into = reached - k
            if by_class:
                k += np.int32(parcels[OF, i]) * w.tables_size
            new_alive = parcels[MASS, i] * (tables[k, SURVIVE] + into * tables[k, SURVIVE + 1])
            new_held = parcels[MASS, i] * (tables[k, HELD] + into * tables[k, HELD + 1])
            alive_change += new_alive - alive
            size += alive
            memory_change += new_held + new_age * new_alive - parcels[PREFILL, i] - age * alive
            tokens = parcels[PREFILL, i] + (age + 0.5 * (step + 1.0)) * alive
            useful += tokens * (reached - furthest)
            emitted += alive * (reached - furthest)
            first_token = min(1.0, reached) - min(1.0, furthest)
            parcels[FIRST_TOKEN, i] += first_token * (theta + 1.0)
            parcels[AGE, i] = new_age
            parcels[FURTHEST, i] = reached
            parcels[ALIVE, i] = new_alive
            parcels[PREFILL, i] = new_held
        w.running += alive_change
        w.completed -= alive_change
        w.memory += memory_change
        w.useful += useful
        w.tokens += emitted
        return size, size + alive_change

    return age_parcels


_price, _price_classes = _pricing(False), _pricing(True)
_age, _age_classes = _aging(False), _aging(True)


@compiled
def price(w, first, last, batches):
    """Write the batch tokens of each parcel, per batch of the step, as its cost; return the sum."""
    if w.classes > 1:
        return _price_classes(w, first, last, batches)
    return _price(w, first, last, batches)


@compiled
def age_parcels(w, first, last, step):
    """Advance parcels of RUNNING by ``step`` tokens, thin them, update the totals."""
    if w.classes > 1:
        return _age_classes(w, first, last, step)
    return _age(w, first, last, step)


@compiled
def longest_prefix(w, first, last, budget):
    """Return where the longest prefix of RUNNING within the budget ends, and its batch tokens.

    The costs are those of :func:`price`. The end is ``last`` if all of them fit, which may be even
    where :func:`price` found more than the budget, for it adds in another order.
    """
    cost = vector_at(w.cost_at, last)
    tokens = 0.0
    while first < last and tokens + cost[first] <= budget:
        tokens += cost[first]
        first += 1
    return first, tokens


@compiled
def execute(w, batches, row):
    """Execute the longest prefix of RUNNING within the budget; fill the row's batch columns.

    The parcel at the edge of the budget is split in two where it is coarse; otherwise all of it
    advances by the fraction of it that executes, which keeps the number of parcels bounded. There
    must be room for one more parcel.
    """
    queue = running_of(w)
    parcels = parcels_of(queue)
    while queue.tail > queue.head and parcels[ALIVE, queue.head] <= 0.0:
        queue.head += 1
    budget = w.B
    whole = queue.tail
    share = 0.0
    tokens = w.memory + w.running
    if batches > 1.0 or tokens > budget:
        tokens = price(w, queue.head, queue.tail, batches)
    if tokens > budget:
        whole, tokens = longest_prefix(w, queue.head, queue.tail, budget)
        if whole < queue.tail:
            costs = vector_at(w.cost_at, queue.extent)[whole]
            share = (budget - tokens) / costs
            tokens = budget
            if costs > COARSE * budget and share > 0.0:
                whole = split(queue, whole, share) + 1
                share = 0.0
    first = queue.head
    recording = w.samples_size > 0
    before = matrix_at(w.before_at, 2, queue.extent)
    if recording:
        for i in range(first, whole + 1):
            before[0, i] = parcels[ALIVE, i]
            before[1, i] = parcels[FURTHEST, i]
    size, size_after = age_parcels(w, first, whole, batches)
    if share > 0.0:
        one, one_after = age_parcels(w, whole, whole + 1, share * batches)
        size += share * one
        size_after += share * one_after
        whole += 1
    row[R_TOKENS] = tokens
    row[R_SIZE] = size if batches == 1.0 else 0.5 * (size + size_after)
    row[R_EMITTED] = 0.0
    if recording:
        row[R_EMITTED] = sample_step(w, first, whole, batches, before)
