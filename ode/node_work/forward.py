"""The forward equation: the law of work in system over time, and in equilibrium."""

from __future__ import annotations

import numpy as np

from ode.node_work.banded import factorise, multiply, shifted, solve
from serving.compilation import compiled

SAME, GROWTH = 6, 1.5
"""Steps of one length, and how much longer the next ones are."""

GAMMA = 2.0 - np.sqrt(2.0)


@compiled
def occupancy(band, below, law, first, duration, out):
    """Advance ``law`` in place by ``duration``; add to ``out`` the time spent at each level.

    TR-BDF2, which damps what is too fast to follow. ``first`` is the length of the first steps.
    """
    n = law.size
    now, length = 0.0, min(first, duration)
    middle, work = np.empty(n), np.empty(n)
    steps = 0
    weight = np.sqrt(2.0) / 4.0
    while now < duration * (1.0 - 1e-12):
        length = min(length, duration - now)
        lu = shifted(band, below, 0.5 * GAMMA * length)
        factorise(lu, below)
        for _ in range(SAME):
            if now + length > duration * (1.0 + 1e-12):
                break
            multiply(band, below, law, work)
            for i in range(n):
                middle[i] = law[i] + 0.5 * GAMMA * length * work[i]
            solve(lu, below, middle)
            a = 1.0 / (GAMMA * (2.0 - GAMMA))
            b = (1.0 - GAMMA) * (1.0 - GAMMA) * a
            for i in range(n):
                work[i] = a * middle[i] - b * law[i]
            solve(lu, below, work)
            for i in range(n):
                out[i] += length * (weight * (law[i] + middle[i]) + (1.0 - 2.0 * weight) * work[i])
                law[i] = work[i]
            now += length
            steps += 1
        length *= GROWTH
    return steps


@compiled
def equilibrium(band, below):
    """Return the law of V that the generator ``band`` leaves as it is."""
    n = band.shape[0]
    width = band.shape[1]
    rest = np.zeros((n - 1, width))
    for i in range(1, n):
        for column in range(width):
            j = i + column - below
            if 1 <= j < n:
                rest[i - 1, column] = -band[i, column]
    law = np.zeros(n)
    for i in range(1, min(n, below + 1)):
        law[i] = band[i, below - i]
    factorise(rest, below)
    solve(rest, below, law[1:])
    law[0] = 1.0
    return law / law.sum()
