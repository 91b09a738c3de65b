"""What happens at a batch boundary of the iteration clock: arrivals, eviction, admission."""

from __future__ import annotations

from ode.lagrangian.layout import (
    ADMITTED,
    AGE,
    ALIVE,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    HELD,
    LAST_TOKEN,
    MASS,
    PREFILL,
    SURVIVE,
    UNTIL,
    WORK,
)
from ode.lagrangian.memory import (
    parcels_of,
    piece_of,
    running_of,
    swapped_of,
    tables_of,
    waiting_of,
)
from ode.lagrangian.parcels import at, compact, push_head, push_tail, size_of, take
from ode.lagrangian.sampling import sample_completion
from serving.compilation import compiled


@compiled
def join(w, fresh):
    """Append the arrivals since the last look to WAITING as one parcel."""
    waiting, piece = waiting_of(w), piece_of(w)
    if waiting.tail == waiting.extent:
        compact(w, waiting, 0, 1)
    piece[:] = 0.0
    piece[MASS] = fresh
    piece[ALIVE] = fresh
    piece[PREFILL] = fresh * tables_of(w)[0, HELD]
    piece[FROM] = w.seen
    # a step of several batches backdates its arrivals as if they filled it, the last one too
    piece[UNTIL] = w.now if w.batches_per_step > 1.0 else min(w.now, w.horizon)
    piece[ADMITTED] = -1.0
    push_tail(waiting, piece)
    w.arrived += fresh


@compiled
def evict(w, excess):
    """Remove from the tail of RUNNING until ``excess`` tokens (memory and growth) are freed."""
    queue, waiting, swapped = running_of(w), waiting_of(w), swapped_of(w)
    victims = size_of(queue)
    if w.sacrifice:
        if waiting.head < victims:
            compact(w, waiting, victims, 1)
    elif swapped.extent - swapped.tail < victims:
        compact(w, swapped, 0, victims)
    parcels, piece = parcels_of(queue), piece_of(w)
    while excess > w.negligible and queue.tail > queue.head:
        i = queue.tail - 1
        frees = parcels[PREFILL, i] + (parcels[AGE, i] + 1) * parcels[ALIVE, i]
        if frees <= 0.0:
            queue.tail -= 1
            continue
        share = min(1.0, excess / frees)
        excess -= share * frees
        take(queue, share, True, piece)
        held = piece[PREFILL] + piece[AGE] * piece[ALIVE]
        w.evicted += piece[ALIVE]
        w.running -= piece[ALIVE]
        w.memory -= held
        if w.sacrifice:
            w.wasted += piece[AGE] * piece[ALIVE]
            piece[AGE] = 0.0
            push_head(waiting, piece)
        else:
            w.moved += held
            w.swapped += piece[ALIVE]
            push_tail(swapped, piece)


@compiled
def admit(w):
    """Fill RUNNING while memory and the threshold allow: from SWAPPED, then from WAITING."""
    queue, waiting, swapped = running_of(w), waiting_of(w), swapped_of(w)
    entrants = size_of(waiting) + size_of(swapped)
    if queue.extent - queue.tail < entrants:
        compact(w, queue, 0, entrants)
    _admit_from(w, swapped, True)
    if size_of(swapped) == 0:
        _admit_from(w, waiting, False)


@compiled
def _admit_from(w, source, is_swapped):
    """Fill RUNNING from the head of one queue while memory and the threshold allow."""
    queue, parcels, piece = running_of(w), parcels_of(source), piece_of(w)
    while source.tail > source.head:
        i = source.head
        held = parcels[PREFILL, i] + parcels[AGE, i] * parcels[ALIVE, i]
        share = 1.0
        if held > 0.0:
            room = w.M_total - w.memory - w.running
            below = w.admission_threshold * w.M_total - w.memory
            share = min(1.0, room / (held + parcels[ALIVE, i]), below / held)
            if share * held <= w.negligible and share < 1.0:
                break
        take(source, share, False, piece)
        held = piece[PREFILL] + piece[AGE] * piece[ALIVE]
        w.memory += held
        w.running += piece[ALIVE]
        if is_swapped:
            w.moved += held
            w.swapped -= piece[ALIVE]
        if piece[ADMITTED] < 0.0:
            piece[ADMITTED] = w.now
        push_tail(queue, piece)


@compiled
def backdate(w):
    """Give the newest parcel of RUNNING, which never queued, the batches of the last step.

    Within a step of h batches arrivals join at every batch; at its end they have executed
    (h - 1) / 2 on average, and waited half a batch. The work is charged to the next step.
    """
    queue, tables = running_of(w), tables_of(w)
    parcels, i = parcels_of(queue), queue.tail - 1
    age = 0.5 * (w.batches_per_step - 1.0)
    mass, fresh = parcels[MASS, i], parcels[ALIVE, i]
    alive, held = mass * at(tables, SURVIVE, age), mass * at(tables, HELD, age)
    work = mass * at(tables, WORK, age)
    w.running += alive - fresh
    w.memory += held + age * alive - parcels[PREFILL, i]
    w.completed += fresh - alive
    w.owed_tokens += work
    w.owed_requests += 0.5 * age * (fresh + alive)
    w.useful += work
    w.tokens += 0.5 * age * (fresh + alive)
    middle = 0.5 * (parcels[FROM, i] + parcels[UNTIL, i])
    half_batch = 0.5 * (parcels[UNTIL, i] - parcels[FROM, i]) / w.batches_per_step
    parcels[FROM, i], parcels[UNTIL, i] = middle - half_batch, middle + half_batch
    parcels[ADMITTED, i] = middle + half_batch
    if w.samples_size > 0 and fresh > alive:
        length = 0.5 * (age + 1.0)
        parcels[FIRST_TOKEN, i] = w.theta - age + 1.0
        sample_completion(w, i, fresh - alive, w.theta - age + length, length)
    # below one token on average, the rest of the first token is added when it is executed
    parcels[FIRST_TOKEN, i] = age * w.theta if age < 1.0 else w.theta - age + 1.0
    parcels[LAST_TOKEN, i] = w.theta
    parcels[AGE, i] = age
    parcels[FURTHEST, i] = age
    parcels[ALIVE, i] = alive
    parcels[PREFILL, i] = held
