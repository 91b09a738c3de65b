"""What happens at a batch boundary of the iteration clock: arrivals, eviction, admission."""

from __future__ import annotations

from ode.lagrangian.parcels import (
    ADMITTED,
    AGE,
    ALIVE,
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
    take,
)
from ode.lagrangian.sampling import (
    sample_completion,
)
from ode.lagrangian.state import (
    BATCHES,
    COMPLETED,
    EVICTED,
    HORIZON,
    M_TOTAL,
    MEMORY,
    MOVED,
    NEGLIGIBLE,
    NOW,
    OWED_REQUESTS,
    OWED_TOKENS,
    RUNNING,
    SACRIFICE,
    SEEN,
    SWAPPED,
    THETA,
    THRESHOLD,
    TOKENS,
    USEFUL,
    WASTED,
)
from serving.compilation import compiled


@compiled
def join(waiting, ends, fresh, tables, spec, state, piece):
    """Append the arrivals since the last look to WAITING as one parcel."""
    piece[:] = 0.0
    piece[MASS] = fresh
    piece[ALIVE] = fresh
    piece[PREFILL] = fresh * tables[0, HELD]
    piece[FROM] = state[SEEN]
    # a step of several batches backdates its arrivals as if they filled it, the last one too
    piece[UNTIL] = state[NOW] if spec[BATCHES] > 1.0 else min(state[NOW], spec[HORIZON])
    piece[ADMITTED] = -1.0
    push_tail(waiting, ends, piece)


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
