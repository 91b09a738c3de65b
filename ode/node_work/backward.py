"""The backward equation: how long D batches will take, by the work in system at their start."""

from __future__ import annotations

import numpy as np

from ode.node_work.banded import factorise, multiply, shifted, solve, solve_two, transposed
from serving.compilation import compiled

COARSEST = 0.15
"""Longest step over the number of batches so far."""

GAMMA = 2.0 - np.sqrt(2.0)

MEAN, VARIANCE, ROOM, MORE = range(4)
"""Rows of what is known of the time that D batches take.

``MEAN`` [time] and ``VARIANCE`` [time^2] are those of the time, ``ROOM`` [1] is the mean number of
the batches that have room, and ``MORE`` [time] what one more request adds to these batches besides
its tokens.
"""

SECOND = VARIANCE
"""Row of the second moment [time^2], which the equation is solved for and the variance replaces."""


@compiled
def decode_moments(band, below, batch_time, idle_time, full, more, batches):
    """Return what is known of the time of D batches from each level, where nothing changes.

    Kac's moment formula on the iteration clock: with L the generator of V per batch and g the
    batch time, ``dm/dD = L m + g`` and ``ds/dD = L s + 2 g m`` for the mean m and the second
    moment s of the sum of g over D batches; likewise the number of batches with room, which have
    the request's own tokens on top.

    Parameters
    ----------
    band, below
        Generator of V per time, by rows (to).
    batch_time, full : shape (K + 1,)
        Mean batch time at each level, probability that the batch is full.
    more : shape (K + 1,) [time]
        What one more request adds to a batch with room, besides its tokens.
    idle_time : [time]
        Batch time of a node that is otherwise idle.
    batches : shape (G,)
        D, rising.

    Returns
    -------
    shape (4, G, K + 1)
        By the rows ``MEAN``, ``VARIANCE``, ``ROOM``, ``MORE``.
    """
    later = np.zeros((4, batches.size, batch_time.size))
    return decode_moments_before(
        band, below, batch_time, idle_time, full, more, batches, np.inf, later
    )


@compiled
def decode_moments_before(band, below, batch_time, idle_time, full, more, batches, passing, later):
    """Return what is known of the time of D batches that begin before a change.

    The first ``passing`` batches are under this generator. What is known of the others, from the
    levels that are then reached, is ``later``, which the equations of :func:`decode_moments` carry
    back.

    Parameters
    ----------
    band, below, batch_time, idle_time, full, more, batches
        As of :func:`decode_moments`.
    passing : [iterations]
        Batches until the change.
    later : shape (4, G, K + 1)
        What is known after it.
    """
    n = batch_time.size
    g = batch_time.copy()
    g[0] = idle_time
    per_batch = transposed(band, below)
    above = band.shape[1] - 1 - below
    for i in range(n):
        per_batch[i] *= g[i]
    out = np.empty((4, batches.size, n))
    state = np.zeros((4, n))
    middle, new, work = np.zeros((4, n)), np.zeros((4, n)), np.empty((4, n))
    source = np.empty((4, n))  # per batch, of the rows but the second moment
    source[MEAN], source[ROOM] = g, 1.0 - full
    source[MORE] = source[ROOM] * more
    done, last = 0.0, -1.0
    lu = per_batch
    a = 1.0 / (GAMMA * (2.0 - GAMMA))
    b = (1.0 - GAMMA) * (1.0 - GAMMA) * a
    for group in range(batches.size):
        left = batches[group] - done
        if batches[group] > passing:
            _after(batches, later, batches[group] - passing, state)
            left = passing
        pieces = max(1, int(np.ceil(left / max(1.0, COARSEST * batches[group]))))
        length = left / pieces
        if abs(length - last) > 1e-12 and length > 0.0:
            lu = shifted(per_batch, above, 0.5 * GAMMA * length)
            factorise(lu, above)
            last = length
        for _ in range(pieces if length > 0.0 else 0):
            half = 0.5 * GAMMA * length
            for row in (MEAN, ROOM, MORE):
                multiply(per_batch, above, state[row], work[row])
                for i in range(n):
                    middle[row, i] = state[row, i] + half * (work[row, i] + 2.0 * source[row, i])
            solve_two(lu, above, middle[MEAN], middle[ROOM])
            solve(lu, above, middle[MORE])
            for row in (MEAN, ROOM, MORE):
                for i in range(n):
                    new[row, i] = a * middle[row, i] - b * state[row, i] + half * source[row, i]
            solve_two(lu, above, new[MEAN], new[ROOM])
            solve(lu, above, new[MORE])
            multiply(per_batch, above, state[SECOND], work[SECOND])
            for i in range(n):
                gained = 2.0 * g[i] * (state[MEAN, i] + middle[MEAN, i])
                middle[SECOND, i] = state[SECOND, i] + half * (work[SECOND, i] + gained)
            solve(lu, above, middle[SECOND])
            for i in range(n):
                gained = 2.0 * g[i] * new[MEAN, i]
                new[SECOND, i] = a * middle[SECOND, i] - b * state[SECOND, i] + half * gained
            solve(lu, above, new[SECOND])
            state[:] = new
        done = batches[group]
        for row in (MEAN, ROOM, MORE):
            out[row, group] = state[row]
        for i in range(n):
            out[VARIANCE, group, i] = max(0.0, state[SECOND, i] - state[MEAN, i] * state[MEAN, i])
    return out


@compiled
def _after(batches, later, left, state):
    """Write what is known of the time of the ``left`` batches after a change into ``state``.

    Between values of D it is interpolated per batch, by the logarithm of D.
    """
    last = batches.size - 1
    above = min(max(np.searchsorted(batches, left), 1), max(last, 1))
    lower = above - 1
    share = 0.0
    if last == 0 or left <= batches[0]:
        above, lower = 0, 0
    else:
        share = np.log(left / batches[lower]) / np.log(batches[above] / batches[lower])
    low, high = (1.0 - share) * left / batches[lower], share * left / batches[above]
    for i in range(state.shape[1]):
        for row in (MEAN, VARIANCE, ROOM, MORE):
            state[row, i] = low * later[row, lower, i] + high * later[row, above, i]
        state[SECOND, i] += state[MEAN, i] * state[MEAN, i]
