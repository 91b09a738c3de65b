"""When an arrival has its first token: the steps that compute prompts, one sample after another.

Given who decodes, a step is as long as the prompts make it that are computed in it, and these came
during an earlier step. An arrival meets a step under way, a long one more often than a short one;
its own prompt is computed in the next step, or the one after where steps are decided ahead, with
those who came in the same step and what earlier ones left over.

The step that is met is drawn as it is made up. An arrival meets the part of a step that decodes or
the part that a prompt takes. In the former case the step is like any other. In the latter the
prompt is one among all, a long one more often, in a step beside the others that came in a step
which is, as the one of an arrival, met.
"""

from __future__ import annotations

import numpy as np

from serving.batch_kernel import step_duration
from serving.compilation import compiled

FORGOTTEN, LONGEST = 0.03, 12
"""Steps are gone through until so little is left of how they began, but no more than that."""

MOST = 40
"""Generations of met steps."""

LARGE = 32.0
"""Largest mean of a Poisson number that is drawn at once."""

AT_ONCE = 64
"""Prompts of one step that are drawn one by one; of further ones the mean is taken."""


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
    number = 0
    while mean > LARGE:
        number += _inverted(_uniform(draws), LARGE)
        mean -= LARGE
    return number + _inverted(_uniform(draws), mean)


@compiled
def _inverted(chance, mean):
    number, term = 0, np.exp(-mean)
    total = term
    while chance > total and term > 1e-300:
        number += 1
        term *= mean / number
        total += term
    return number


@compiled
def _prompts(draws, often, quantiles, total):
    """Add the prompts of a Poisson number of requests to ``total``: tokens, pairs, known, KV."""
    number = _poisson(draws, often)
    for _ in range(min(number, AT_ONCE)):
        at = int(_uniform(draws) * quantiles.shape[1])
        for row in range(4):
            total[row] += quantiles[row, at]
    if number > AT_ONCE:
        for row in range(4):
            total[row] += (number - AT_ONCE) * quantiles[row].mean()


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
def _usual_step(
    draws, law, late, decodes, context, usual, rate, room, quantiles, queue, taken, steps
):
    """Fill in the queue of a step like any other."""
    _prompts(draws, rate * usual, quantiles, queue)
    for _ in range(steps):
        step = _step(law, late, decodes, context, queue, room, taken, 0.0)
        _prompts(draws, rate * step, quantiles, queue)


@compiled
def first_tokens(
    law,
    late,
    is_ahead,
    tokens,
    rate,
    entering,
    quantiles,
    longer,
    decodes,
    context,
    usual,
    state,
    place,
    own,
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
    rate, entering
        Arrivals [requests/time] where there is room, and requests that start in a full step.
    quantiles : shape (4, Q)
        Prompts that come equally often: tokens computed, pairs attended, tokens known, KV.
    longer : shape (4, Q)
        Prompts that come as often as they have tokens to compute.
    decodes, context, usual : shape (N,)
        By sample: tokens that the step decodes, KV that these read, mean time of a step [time].
    state : shape (N,)
        0 where the server is idle, 1 where there is room, 2 where the arrival waits for room.
    place : shape (N,)
        Part of the step under way that is over when the arrival comes.
    own : shape (4, N)
        The arrival's prompt, by the rows of ``quantiles``.
    seed
        Of the random numbers, of which every sample has its own.
    out : shape (2, N) [time]
        Time from the arrival, or from when there is room, until its first step is decided and until
        its first token.
    """
    queue, before, taken = np.zeros(4), np.zeros(4), np.zeros(4)
    behind, after = np.zeros(4), np.zeros(4)
    draws = np.zeros(1, np.uint64)
    mean = quantiles[0].mean()
    for i in range(decodes.size):
        draws[0] = np.uint64(seed + i) * np.uint64(0xD1342543DE82EF95)
        room = max(tokens - decodes[i], 1.0)
        n, kv = decodes[i], context[i]
        queue[:] = 0.0
        behind[:] = 0.0
        after[:] = 0.0
        start, begin = 0.0, 0.0
        if state[i] == 1:
            alone = late + step_duration(law, n, kv, 0.0, 0.0, 0.0, 0.0)
            prompts = max(1.0 - alone / usual[i], 0.0)
            lasting = min(max(prompts, rate * usual[i] * mean / room, 1e-9), 0.99)
            steps = min(int(np.log(FORGOTTEN) / np.log(lasting)), LONGEST) + 1
            if is_ahead:
                _usual_step(
                    draws, law, late, n, kv, usual[i], rate, room, quantiles, queue, taken, steps
                )
                step = _step(law, late, n, kv, queue, room, taken, 0.0)
                before[:] = 0.0
                _prompts(draws, rate * step, quantiles, before)
                queue[:] = 0.0
            _usual_step(
                draws, law, late, n, kv, usual[i], rate, room, quantiles, queue, taken, steps
            )
            met_prompts = 0
            while met_prompts < MOST and _uniform(draws) < prompts:
                met_prompts += 1
            for _ in range(met_prompts):
                step = _step(law, late, n, kv, queue, room, taken, 0.0)
                _prompts(draws, rate * step, quantiles, queue)
                at = int(_uniform(draws) * longer.shape[1])
                for row in range(4):
                    queue[row] += longer[row, at]
            if met_prompts > 0:  # one of the steps that the prompts take
                passed = _uniform(draws) * queue[0]
                while passed > room and queue[0] > room:
                    _step(law, late, n, kv, queue, room, taken, 0.0)
                    passed -= room
            met = _step(law, late, n, kv, queue, room, taken, 0.0)
            start = begin = (1.0 - place[i]) * met
            if is_ahead:
                queue += before
                step = _step(law, late, n, kv, queue, room, taken, 0.0)
                start += step
                _prompts(draws, rate * step, quantiles, after)
            _prompts(draws, rate * met * place[i], quantiles, queue)
            _prompts(draws, rate * met * (1.0 - place[i]), quantiles, behind)
        elif state[i] == 2:
            _prompts(draws, entering, quantiles, behind)
        else:
            n, kv = 0.0, 0.0
        for row in range(4):
            queue[row] += own[row, i]
        first = start
        done = 0.0  # of its own prompt, which the next part of it reads again
        while queue[0] > room:
            step = _step(law, late, n, kv, queue, room, taken, done)
            first += step
            done = max(own[0, i] - queue[0], 0.0)
            if state[i] == 1:  # who comes meanwhile is beside the last part of it
                if is_ahead:
                    behind += after
                    after[:] = 0.0
                    _prompts(draws, rate * step, quantiles, after)
                else:
                    _prompts(draws, rate * step, quantiles, behind)
        queue += behind
        first += _step(law, late, n, kv, queue, room, taken, done)
        out[0, i], out[1, i] = begin, first
