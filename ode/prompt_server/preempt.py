"""Who is preempted when memory has no room for the growth of those who run: the last to start."""

from __future__ import annotations

import numpy as np

from ode.prompt_server.layout import (
    AGE,
    AHEAD,
    BEFORE,
    BIRTH,
    ENTRY,
    FREED,
    MASS,
    P_AGE_FROM,
    P_AGE_TO,
    P_BEFORE,
    P_BIRTH,
    P_MASS,
    P_SLOT,
    PREEMPTED,
    RESUMED,
    SLOT,
    SWAPPED,
)
from ode.prompt_server.memory import lane, masses_of, next_piece, parcels_of, queue_of
from serving.compilation import compiled


@compiled
def note_piece(w, mass, slot, since, birth, before, age):
    """Note that requests decoded from one age to another without a stop."""
    piece = next_piece(w)
    piece[P_SLOT], piece[P_MASS] = slot, mass
    piece[P_AGE_FROM], piece[P_AGE_TO] = since, age
    piece[P_BIRTH], piece[P_BEFORE] = birth, before


@compiled
def _stop(w, mass, slot, since, birth, before, age, free):
    """Take requests out of RUNNING: note what they have decoded, and queue them up."""
    note_piece(w, mass, slot, since, birth, before, age)
    number = SWAPPED if w.swaps else PREEMPTED
    queue, parcels = queue_of(w, number), parcels_of(w, number)
    to = parcels[queue.tail]
    to[MASS], to[SLOT], to[BIRTH], to[AGE] = mass, slot, birth, age
    to[ENTRY], to[BEFORE] = w.clock, before
    to[FREED], to[AHEAD] = w.taken, free
    queue.tail += 1
    w.evicted += mass * lane(w, 0, age)
    if w.swaps:
        w.moved += mass * lane(w, 4, age)


@compiled
def preempt(w, blocks):
    """Preempt until the blocks [tokens] of those who run fit; return the blocks then."""
    masses, resumed, parcels = masses_of(w), queue_of(w, RESUMED), parcels_of(w, RESUMED)
    slot, least = w.clock, max(0, w.clock + 2 - w.ages)
    later = 0 if w.prompts_apart else 1  # a slot's requests start a step before they decode
    while blocks > w.kv_tokens * (1.0 + 1e-9):
        while slot >= least and masses[slot] <= 0.0:
            slot -= 1
        while resumed.tail > resumed.head and parcels[resumed.tail - 1, MASS] <= 0.0:
            resumed.tail -= 1
        from_slot = slot >= least
        if resumed.tail > resumed.head:
            last = resumed.tail - 1
            from_slot = from_slot and slot - later >= parcels[last, ENTRY]
        elif not from_slot:
            break
        free = max(0.0, w.kv_tokens - blocks)
        if from_slot:
            mass, birth = masses[slot], float(slot)
        else:
            mass, birth = parcels[last, MASS], parcels[last, BIRTH]
        age = w.clock + 1 - np.int64(birth)
        holds = mass * lane(w, 4, age)
        share = min(1.0, (blocks - w.kv_tokens) / holds) if holds > 0.0 else 1.0
        if from_slot:
            if holds > 0.0:
                _stop(w, share * mass, slot, 0.0, birth, -1.0, age, free)
                masses[slot] = (1.0 - share) * mass
            if share >= 1.0:
                slot -= 1
        else:
            if holds > 0.0:
                each = parcels[last]
                _stop(w, share * mass, each[SLOT], each[AGE], birth, each[BEFORE], age, free)
            parcels[last, MASS] = (1.0 - share) * mass
            if share >= 1.0:
                resumed.tail -= 1
        blocks -= share * holds
    return blocks
