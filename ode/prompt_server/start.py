"""Who starts in a step: the preempted first, then those who wait, as far as there is room."""

from __future__ import annotations

import numpy as np

from ode.prompt_server.layout import (
    A_ADMITTED,
    A_FIRST_TOKEN,
    A_FROM,
    A_SLOT,
    A_UNTIL,
    AGE,
    AHEAD,
    BEFORE,
    BIRTH,
    COLUMNS,
    ENTRY,
    FREED,
    MASS,
    PREEMPTED,
    RESUMED,
    SWAPPED,
)
from ode.prompt_server.memory import (
    admissions_of,
    again,
    lane,
    masses_of,
    parcels_of,
    queue_of,
)
from serving.compilation import compiled


@compiled
def _resume(w, number, at, share, birth):
    """Move a share of a parcel of another queue to the tail of those who run again."""
    source, to, queue = parcels_of(w, number), parcels_of(w, RESUMED), queue_of(w, RESUMED)
    for column in range(COLUMNS):
        to[queue.tail, column] = source[at, column]
    to[queue.tail, MASS] = share * source[at, MASS]
    to[queue.tail, BEFORE] = source[at, BIRTH]
    to[queue.tail, BIRTH] = birth
    to[queue.tail, ENTRY] = w.clock
    queue.tail += 1
    source[at, MASS] *= 1.0 - share


@compiled
def _lost(w, parcel, held):
    """Return the share of a parcel's KV that others have overwritten since it was preempted.

    Freed blocks wait in a queue to be taken: those free before a parcel was preempted come first,
    then its own from the last to the first.
    """
    if not w.keeps_prefixes or held <= 0.0:
        return 1.0
    return min(1.0, max(0.0, (w.taken - parcel[FREED] - parcel[AHEAD]) / held))


@compiled
def start_again(w, left, seats, room):
    """Let preempted requests compute their tokens again, the first in the queue first.

    Returns
    -------
    left, seats, room
        Tokens of the step, seats and KV that are left; ``left`` is negative where somebody waits.
    """
    queue, parcels = queue_of(w, PREEMPTED), parcels_of(w, PREEMPTED)
    while queue.tail > queue.head:
        i = queue.tail - 1
        age, mass = np.int64(parcels[i, AGE]), parcels[i, MASS]
        alive = mass * lane(w, 0, age)
        if alive <= w.negligible * 1e-3:
            queue.tail -= 1
            continue
        kv, held = mass * again(w, 0, age), mass * again(w, 1, age)
        own = min(kv, max(kv * _lost(w, parcels[i], held), w.least_again * alive))
        share = min(1.0, left / own, seats / alive, room / held)
        if share * alive <= w.negligible and share < 1.0:
            return -1.0, seats, room
        _resume(w, PREEMPTED, i, share, w.clock - age + (0.0 if w.prompts_apart else 1.0))
        tokens, known = share * own, share * (kv - own)
        w.step_prefill += tokens
        w.step_attention += tokens * ((kv - own) + 0.5 * (own + alive)) / alive
        w.step_known += known
        w.step_context += share * kv
        w.step_resumed += share * alive
        w.step_taken += share * held - known
        w.step_held += share * held
        w.wasted += tokens
        left -= tokens
        seats -= share * alive
        room -= share * held
        if share < 1.0:
            return -1.0, seats, room
        queue.tail -= 1
    return left, seats, room


@compiled
def start_fresh(w, left, seats, room):
    """Let arrivals start whose turn it is, as far as tokens, seats and KV allow."""
    fresh = min(w.arrived - w.admitted, seats)
    if w.prompt_tokens > 0.0:
        fresh = min(fresh, left / w.prompt_tokens)
    if w.prompt_held > 0.0:
        fresh = min(fresh, room / w.prompt_held)
    if fresh <= 0.0:
        return
    slot = w.clock if w.prompts_apart else w.clock + 1
    masses_of(w)[slot] += fresh
    row = admissions_of(w)
    row[A_FROM], row[A_UNTIL] = w.admitted, w.admitted + fresh
    row[A_ADMITTED], row[A_FIRST_TOKEN], row[A_SLOT] = w.now, w.now, slot
    w.admissions += 1
    w.admitted += fresh
    w.step_fresh = fresh
    w.step_prefill += fresh * w.prompt_tokens
    w.step_attention += fresh * w.prompt_attention
    w.step_known += fresh * w.prompt_known
    w.step_context += fresh * w.prompt_context
    w.step_taken += fresh * w.prompt_held
    w.step_held += fresh * w.prompt_held


@compiled
def start(w, left, seats, room):
    """Let requests start in this step, see :func:`start_again` and :func:`start_fresh`."""
    left, seats, room = start_again(w, left, seats, room)
    if left > 0.0:
        start_fresh(w, left, seats, room)


@compiled
def swap_in(w, seats, room):
    """Bring swapped requests back, the first that was swapped first; they decode in this step."""
    queue, parcels = queue_of(w, SWAPPED), parcels_of(w, SWAPPED)
    while queue.tail > queue.head:
        i = queue.head
        age, mass = np.int64(parcels[i, AGE]), parcels[i, MASS]
        alive, held = mass * lane(w, 0, age), mass * lane(w, 4, age)
        if alive <= w.negligible * 1e-3:
            queue.head += 1
            continue
        share = min(1.0, seats / alive, room / held)
        if share * alive <= w.negligible and share < 1.0:
            return
        _resume(w, SWAPPED, i, share, w.clock - age + 1.0)
        w.moved += share * held
        seats -= share * alive
        room -= share * held
        if share < 1.0:
            return
        queue.head += 1
