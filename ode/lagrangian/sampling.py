"""Latency samples of the iteration clock: completions, and gaps between tokens."""

from __future__ import annotations

from ode.lagrangian.layout import (
    ADMITTED,
    ALIVE,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    LAST_TOKEN,
    MASS,
    S_ADMITTED,
    S_FINISH,
    S_FIRST_TOKEN,
    S_FROM,
    S_LENGTH,
    S_UNTIL,
    S_WEIGHT,
    UNTIL,
)
from ode.lagrangian.memory import next_sample, parcels_of, running_of
from serving.compilation import compiled


@compiled
def sample_completion(w, i, weight, finish, length):
    """Record the latencies of ``weight`` [requests] of the parcel at place ``i`` of RUNNING.

    Requests that were there before time 0 have none. ``finish`` is a position on the iteration
    clock [batches], ``length`` the decode length [tokens]. Where the table was full, one of several
    small weights stands for all of them.
    """
    parcels = parcels_of(running_of(w))
    if parcels[UNTIL, i] < 0.0:
        return
    if weight < w.sample_unit:
        w.sample_debt += weight
        if w.sample_debt < w.sample_unit:
            return
        w.sample_debt -= w.sample_unit
        weight = w.sample_unit
    sample = next_sample(w)
    sample[S_WEIGHT] = weight
    sample[S_FROM] = parcels[FROM, i]
    sample[S_UNTIL] = parcels[UNTIL, i]
    sample[S_ADMITTED] = parcels[ADMITTED, i]
    sample[S_FIRST_TOKEN] = parcels[FIRST_TOKEN, i]
    sample[S_FINISH] = finish
    sample[S_LENGTH] = length


@compiled
def _sample_gap(w, weight, last_token):
    """Record ``weight`` [tokens] that come with the next batch after a token at ``last_token``."""
    if weight < w.gap_unit:
        w.gap_debt += weight
        if w.gap_debt < w.gap_unit:
            return
        w.gap_debt -= w.gap_unit
        weight = w.gap_unit
    sample = next_sample(w)
    sample[S_WEIGHT] = weight
    sample[S_FIRST_TOKEN] = last_token
    sample[S_FINISH] = w.theta + 1.0
    sample[S_LENGTH] = -1.0


@compiled
def sample_step(w, first, last, batches, before):
    """Record the completions of a step and the gaps of those that resume; return tokens emitted.

    Tokens that follow one of the previous step are returned, not recorded: their inter-token
    latency is the batch's duration. ``before`` (2, .) holds ALIVE and FURTHEST as they were.
    """
    parcels, theta = parcels_of(running_of(w)), w.theta
    finish = theta + 0.5 * (batches + 1.0)
    emitted = 0.0
    for i in range(first, last):
        alive, furthest, reached = before[0, i], before[1, i], parcels[FURTHEST, i]
        if reached <= furthest:
            continue
        tokens = alive * (reached - max(furthest, 1.0))
        if tokens > 0.0:
            if parcels[LAST_TOKEN, i] < theta and parcels[UNTIL, i] >= 0.0:
                once = min(tokens, alive)
                _sample_gap(w, once, parcels[LAST_TOKEN, i])
                tokens -= once
            emitted += tokens
        parcels[LAST_TOKEN, i] = theta + batches
        done = alive - parcels[ALIVE, i]
        if done > 1e-15 * alive:
            length = 0.5 * (furthest + reached + 1.0)
            sample_completion(w, i, done, finish, length)
    return emitted


@compiled
def sample_cruising(w, head, newest, alives, shift, survives):
    """Record the completions of a step while cruising, as :func:`sample_step` would.

    Parameters
    ----------
    head, newest
        Places of the oldest parcel that counts and of the newest, which has just joined.
    alives : shape (L,)
        Lane of the requests alive after a step, from ``shift`` on those of the parcels.
    survives
        Share of the newest parcel that its own backdated batches leave alive.

    Returns
    -------
    [tokens]
        Tokens that follow one of the step before.
    """
    parcels, theta, batches = parcels_of(running_of(w)), w.theta, w.batches_per_step
    masses, until = parcels[MASS], parcels[UNTIL]
    backdated = 0.5 * (batches - 1.0)
    fresh = masses[newest]
    if survives < 1.0:
        length = 0.5 * (backdated + 1.0)
        parcels[FIRST_TOKEN, newest] = theta - backdated + 1.0
        sample_completion(w, newest, fresh * (1.0 - survives), theta - backdated + length, length)
    finish = theta + 0.5 * (batches + 1.0)
    debt, unit, lane = w.sample_debt, w.sample_unit, shift
    for i in range(head, newest + 1):
        before = alives[lane + 1] if i < newest else survives
        done = masses[i] * (before - alives[lane])
        lane += 1
        if until[i] < 0.0 or done <= 0.0:
            continue
        if debt + done < unit:
            debt += done
            continue
        age = backdated + (newest - i) * batches
        parcels[FIRST_TOKEN, i] = theta - age + 1.0
        w.sample_debt = debt
        sample_completion(w, i, done, finish, age + 0.5 * (batches + 1.0))
        debt = w.sample_debt
    w.sample_debt = debt
    fresh *= survives
    return batches * w.running + fresh * (backdated + batches - max(backdated, 1.0))
