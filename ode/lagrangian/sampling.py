"""Latency samples of the iteration clock: completions, and gaps between tokens."""

from __future__ import annotations

from ode.lagrangian.parcels import (
    ADMITTED,
    ALIVE,
    FIRST_TOKEN,
    FROM,
    FURTHEST,
    LAST_TOKEN,
    UNTIL,
)
from ode.lagrangian.state import (
    S_ADMITTED,
    S_FINISH,
    S_FIRST_TOKEN,
    S_FROM,
    S_LENGTH,
    S_UNTIL,
    S_WEIGHT,
)
from serving.compilation import compiled


@compiled
def sample_completion(queue, i, weight, finish, length, samples, sample_count):
    """Record the latencies of the mass that completes, unless it was there before time 0."""
    if queue[UNTIL, i] < 0.0:
        return
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
            if queue[LAST_TOKEN, i] < theta and queue[UNTIL, i] >= 0.0:
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
