"""The backward equation: how long D batches will take, by the work in system at their start."""

from __future__ import annotations

import numpy as np

from ode.workload_process.banded import factorise, multiply, shifted, solve, transposed
from serving.compilation import compiled

COARSEST = 0.35
"""Longest step over the number of batches so far."""

GAMMA = 2.0 - np.sqrt(2.0)


@compiled
def decode_moments(band, below, batch_time, idle_time, full, batches):
    """Return mean, variance and open share of the time of D batches from each level.

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
    idle_time : [time]
        Batch time of a node that is otherwise idle.
    batches : shape (G,)
        D, rising.

    Returns
    -------
    shape (3, G, K + 1)
    """
    n = batch_time.size
    g = batch_time.copy()
    g[0] = idle_time
    per_batch = transposed(band, below)
    above = band.shape[1] - 1 - below
    for i in range(n):
        per_batch[i] *= g[i]
    out = np.empty((3, batches.size, n))
    state = np.zeros((3, n))
    middle, new, work = np.zeros((3, n)), np.zeros((3, n)), np.empty(n)
    source = np.empty((3, n))
    source[0], source[2] = g, 1.0 - full
    done, last = 0.0, -1.0
    lu = per_batch
    a = 1.0 / (GAMMA * (2.0 - GAMMA))
    b = (1.0 - GAMMA) * (1.0 - GAMMA) * a
    for group in range(batches.size):
        left = batches[group] - done
        pieces = max(1, int(np.ceil(left / max(1.0, COARSEST * batches[group]))))
        length = left / pieces
        if abs(length - last) > 1e-12 and length > 0.0:
            lu = shifted(per_batch, above, 0.5 * GAMMA * length)
            factorise(lu, above)
            last = length
        for _ in range(pieces if length > 0.0 else 0):
            half = 0.5 * GAMMA * length
            for row in (0, 2, 1):
                multiply(per_batch, above, state[row], work)
                for i in range(n):
                    if row == 1:
                        start, stop = 2.0 * g[i] * state[0, i], 2.0 * g[i] * middle[0, i]
                    else:
                        start = stop = source[row, i]
                    middle[row, i] = state[row, i] + half * (work[i] + start + stop)
                solve(lu, above, middle[row])
                for i in range(n):
                    stop = 2.0 * g[i] * new[0, i] if row == 1 else source[row, i]
                    new[row, i] = a * middle[row, i] - b * state[row, i] + half * stop
                solve(lu, above, new[row])
            state[:] = new
        done = batches[group]
        out[0, group], out[2, group] = state[0], state[2]
        for i in range(n):
            out[1, group, i] = max(0.0, state[1, i] - state[0, i] * state[0, i])
    return out
