"""When an arrival has its first token: the steps that compute prompts, one sample after another.

Given who decodes, a step is as long as the prompts make it that are computed in it, and these came
during an earlier step. An arrival's own prompt is computed in the step after the one that it meets,
or the one after that where steps are decided ahead, with those who came in the same step and what
earlier ones left over.

Which step is met is not drawn but comes about: a few steps are gone through, with arrivals one
gap after the other, and the last of these is the one whose first token is asked for. So it meets a
long step more often than a short one, and as many others as the gaps of its stream say: after a
short gap there is somebody just before it, after a regular one there is not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from serving.batch_kernel import step_duration
from serving.compilation import compiled

FORGOTTEN, LONGEST = 0.03, 12
"""Steps are gone through until so little is left of how they began, but no more than that."""

GAPS = 1024
"""Gaps between arrivals that stand for all."""

AT_ONCE = 24.0
"""Arrivals of a step beyond which several come together: their prompts scatter about their mean as
those of so many do."""


STABLE = 0.95
"""Share of the rate at which full steps compute prompts, up to which a queue of them is taken to be
in equilibrium given who decodes: a longer one is in the work in system."""

CLOSEST = 0.95
"""Share of the time that prompts take at most, where the steps after the first token are told."""

RARE = 1e-6
"""Arrivals of a step below which it does not matter how rare they are."""


@lru_cache(maxsize=64)
def gaps_of(dispersion: float, together: float) -> NDArray[np.float64]:
    """Return equally likely gaps, shape (G,), between arrivals of so many requests ``together``.

    A request's gap has the mean 1 and a gamma law, and the number of requests in a long time the
    ``dispersion``, 1 for Poisson arrivals.
    """
    shape = together / dispersion
    gap = gammaincinv(shape, (np.arange(GAPS) + 0.5) / GAPS)
    return np.asarray(gap * (together / gap.mean()), float)


@compiled
def _uniform(draws):
    """Return the next number in [0, 1) of a sample (splitmix64); ``draws`` holds its state."""
    draws[0] += np.uint64(0x9E3779B97F4A7C15)
    z = draws[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _poisson(draws, mean):
    """Return a Poisson number by inversion, so that it changes little with its mean."""
    chance, number, term = _uniform(draws), 0, np.exp(-mean)
    total = term
    while chance > total and term > 1e-300:
        number += 1
        term *= mean / number
        total += term
    return number


@compiled
def _gap(draws, gaps, rate):
    """Return the time to the next arrival."""
    return gaps[int(_uniform(draws) * gaps.size)] / rate


@compiled
def _prompts(draws, together, quantiles, mean, total):
    """Add the prompts of an arrival to ``total``: tokens, pairs, known, KV."""
    at = int(_uniform(draws) * quantiles.shape[1])
    root = np.sqrt(together)
    for row in range(4):
        total[row] += together * mean[row] + root * (quantiles[row, at] - mean[row])


@compiled
def _step(law, late, decodes, context, queue, room, taken, again):
    """Return the time of a step that computes what it has room for of a queue of prompts.

    It reads ``again`` [tokens] of a prompt whose parts before were computed in earlier steps.
    """
    share = 1.0 if queue[0] <= room else room / queue[0]
    for row in range(4):
        taken[row] = share * queue[row]
        queue[row] -= taken[row]
    context += taken[3] + again
    return late + step_duration(law, decodes, context, taken[0], taken[1], taken[2] + again, 0.0)


@compiled
def _fastest(law, late, decodes, context, mean, room):
    """Return how many requests have their prompts computed in steps that these fill, per time."""
    number = room / max(mean[0], 1.0)
    step = step_duration(
        law, decodes, context + number * mean[3], room, number * mean[1], number * mean[2], 0.0
    )
    return number / (late + step)


@compiled
def first_tokens(
    law,
    late,
    is_ahead,
    tokens,
    rate,
    together,
    gaps,
    entering,
    quantiles,
    decodes,
    context,
    usual,
    state,
    place,
    own,
    steps_after,
    seed,
    out,
):
    """Fill in when arrivals start and have their first token.

    Parameters
    ----------
    law, late
        Address of the law's vector, and time [time] that a step takes besides.
    is_ahead
        Whether a step is decided while the one before runs.
    tokens : [tokens]
        That a step computes at most.
    rate : [requests/time]
        Of arrivals where there is room.
    together, gaps
        Requests that stand for one arrival, and their gaps times the rate, see :func:`gaps_of`.
    entering
        Requests that start in a full step.
    quantiles : shape (4, Q)
        Prompts that come equally often: tokens computed, pairs attended, tokens known, KV.
    decodes, context, usual : shape (N,)
        By sample: tokens that the step decodes, KV that these read, mean time of a step [time].
    state : shape (N,)
        0 where the server is idle, 1 where there is room, 2 where the arrival waits for room.
    place : shape (N,)
        Part of the first step that is over when the first arrival comes.
    own : shape (4, N)
        The arrival's prompt, by the rows of ``quantiles``.
    steps_after : shape (N,)
        Steps that the arrival is in after its first token.
    seed
        Of the random numbers, of which every sample has its own.
    out : shape (3, N) [time]
        Time from the arrival, or from when there is room, until its first step is decided and until
        its first token. By how much longer than usual the steps after that are, where it found
        room: a queue of prompts, and those who came during long steps, make more of them long.
    """
    # those who may be computed in the next step, who came before the step under way began where
    # steps are decided ahead, and who came during it
    queue, ready, fresh = np.zeros(4), np.zeros(4), np.zeros(4)
    taken, behind = np.zeros(4), np.zeros(4)
    left_over, decided, last = np.zeros(4), np.zeros(4), 0.0
    draws = np.zeros(1, np.uint64)
    mean = np.zeros(4)
    for row in range(4):
        mean[row] = quantiles[row].mean()
    for i in range(decodes.size):
        draws[0] = np.uint64(seed + i) * np.uint64(0xD1342543DE82EF95)
        room = max(tokens - decodes[i], 1.0)
        n, kv = decodes[i], context[i]
        behind[:] = 0.0
        alone, prompts, step_before = 0.0, 0.0, 0.0
        start, begin, following, often = 0.0, 0.0, np.inf, rate
        if state[i] == 1:
            alone = late + step_duration(law, n, kv, 0.0, 0.0, 0.0, 0.0)
            often = min(rate, STABLE * _fastest(law, late, n, kv, mean, room))
            often = max(often, RARE / usual[i])
            prompts = max(1.0 - alone / usual[i], 0.0)
            lasting = min(max(prompts, often * usual[i] * mean[0] / room, 1e-9), 0.99)
            steps = min(int(np.log(FORGOTTEN) / np.log(lasting)), LONGEST) + 2
            # it begins in a step as the sample before met one: queues are long where prompts take
            # most of the time, and a few steps would not make one
            last = min(max(last, 0.5 * usual[i]), LONGEST * usual[i]) if last > 0.0 else usual[i]
            queue[:], ready[:] = left_over, decided
            # times are from the first arrival on
            passed = _gap(draws, gaps, often)
            fresh[:] = 0.0
            _prompts(draws, together, quantiles, mean, fresh)
            while passed < place[i] * last:
                _prompts(draws, together, quantiles, mean, fresh)
                passed += _gap(draws, gaps, often)
            end = (1.0 - place[i]) * last
            left = int(np.ceil(max(often * usual[i] / together, 1.0) * steps))
            arrives = _gap(draws, gaps, often)
            while True:
                while left > 1 and arrives <= end:
                    _prompts(draws, together, quantiles, mean, fresh)
                    arrives += _gap(draws, gaps, often)
                    left -= 1
                if arrives <= end:
                    break
                if is_ahead:
                    queue += ready
                    ready[:] = fresh
                else:
                    queue += fresh
                fresh[:] = 0.0
                if queue[0] == 0.0 and ready[0] == 0.0:
                    end += np.floor((arrives - end) / alone) * alone
                last = _step(law, late, n, kv, queue, room, taken, 0.0)
                end += last
            left_over[:], decided[:] = queue, ready
            following = arrives + _gap(draws, gaps, often)
            while following <= end:
                _prompts(draws, together, quantiles, mean, behind)
                following += _gap(draws, gaps, often)
            start = begin = end - arrives
            if is_ahead:
                queue += ready
                step_before = _step(law, late, n, kv, queue, room, taken, 0.0)
                start += step_before
            following -= arrives
            queue += fresh
            fresh[:] = 0.0
        elif state[i] == 2:
            queue[:] = 0.0
            part = max(entering / AT_ONCE, 1.0)
            for _ in range(_poisson(draws, entering / part)):
                _prompts(draws, part, quantiles, mean, behind)
        else:
            queue[:] = 0.0
            n, kv = 0.0, 0.0
        for row in range(4):
            queue[row] += own[row, i]
        first = start
        done = 0.0  # of its own prompt, which the next part of it reads again
        while queue[0] > room:
            began = first
            first += _step(law, late, n, kv, queue, room, taken, done)
            done = max(own[0, i] - queue[0], 0.0)
            # who comes before the next part of it is decided is beside that
            while following <= (began if is_ahead else first):
                _prompts(draws, together, quantiles, mean, behind)
                following += _gap(draws, gaps, often)
        queue += behind
        own_step = _step(law, late, n, kv, queue, room, taken, done)
        first += own_step
        out[0, i], out[1, i], out[2, i] = begin, first, 0.0
        if state[i] == 1:
            # each step's excess makes a later one longer by the share of the time that prompts take
            share = min(prompts, CLOSEST)
            each = (own_step - alone) / max(taken[0], 1e-300)
            excess = queue[0] * each + share * (own_step - usual[i])
            most = steps_after[i] * (alone + each * room - usual[i])
            turns = steps_after[i]
            if is_ahead:  # two such sequences take turns
                excess += share * (step_before - usual[i])
                turns *= 0.5
            out[2, i] = min(excess * (1.0 - share**turns) / (1.0 - share), max(most, 0.0))
