"""The forward equation: the law of work in system over time, and in equilibrium."""

from __future__ import annotations

import numpy as np

from ode.node_work.banded import factorise, multiply, shifted, solve
from serving.compilation import compiled

SAME, GROWTH = 6, 1.5
"""Steps of one length, and how much longer the next ones are."""

NOBODY = 1e-16
"""Probability below which a level counts as not occupied."""

GAMMA = 2.0 - np.sqrt(2.0)


@compiled
def occupancy(band, below, law, first, duration, out):
    """Advance ``law`` in place by ``duration``; add to ``out`` the time spent at each level.

    TR-BDF2, which damps what is too fast to follow. ``first`` is the length of the first steps.
    Levels above all that are occupied are left out until they are.

    Returns
    -------
    Number of steps.
    """
    return followed(band, below, law, first, duration, out, np.empty(0), np.empty((0, 0)))


@compiled
def followed(band, below, law, first, duration, out, time, laws):
    """Do as :func:`occupancy`, and write the law after each step.

    Parameters
    ----------
    time : shape (S,)
        Set to the time after each step; steps beyond S are not written.
    laws : shape (S, K + 1)
        Set to the law then.
    """
    n = law.size
    now, length = 0.0, min(first, duration)
    middle, work = np.empty(n), np.empty(n)
    steps, top = 0, _top(law, below)
    weight = np.sqrt(2.0) / 4.0
    a = 1.0 / (GAMMA * (2.0 - GAMMA))
    b = (1.0 - GAMMA) * (1.0 - GAMMA) * a
    while now < duration * (1.0 - 1e-12):
        length = min(length, duration - now)
        known = 0  # levels that the factors are for
        lu = band[:1]
        done = 0
        while done < SAME and now + length <= duration * (1.0 + 1e-12):
            if known != top:
                lu = shifted(band[:top], below, 0.5 * GAMMA * length)
                factorise(lu, below)
                known = top
            multiply(band[:top], below, law[:top], work[:top])
            for i in range(top):
                middle[i] = law[i] + 0.5 * GAMMA * length * work[i]
            solve(lu, below, middle[:top])
            for i in range(top):
                work[i] = a * middle[i] - b * law[i]
            solve(lu, below, work[:top])
            if top < n and _reaches(work, top, below):
                top = min(n, top + max(4 * below, top // 2))
                continue
            for i in range(top):
                out[i] += length * (weight * (law[i] + middle[i]) + (1.0 - 2.0 * weight) * work[i])
                law[i] = work[i]
            now += length
            if steps < time.size:
                time[steps] = now
                laws[steps] = law
            steps += 1
            done += 1
        length *= GROWTH
    return steps


def most_steps(first: float, duration: float) -> int:
    """Return how many steps of a ``duration`` there are at most, see :func:`occupancy`."""
    grown = np.log1p((GROWTH - 1.0) * duration / (SAME * max(first, 1e-300))) / np.log(GROWTH)
    return SAME * (int(grown) + 2)


@compiled
def _top(law, below):
    """Return how many levels there are up to a little above the occupied ones."""
    last = law.size - 1
    while last > 0 and abs(law[last]) <= NOBODY:
        last -= 1
    return min(law.size, last + 1 + 4 * below)


@compiled
def _reaches(law, top, below):
    """Return whether one of the highest of ``top`` levels, from which jumps leave, is occupied."""
    for i in range(max(0, top - below), top):
        if abs(law[i]) > NOBODY:
            return True
    return False


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
