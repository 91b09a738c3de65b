"""What is expected of a batch given the work in system: the law of independent stages.

Compiled: a Panjer recursion where a grid resolves the work of requests, its saddle point beyond.
"""

from __future__ import annotations

import numpy as np

from fluid.node_work.request_work import (
    BY_TOKENS,
    COUNT,
    EXECUTING,
    LEFT,
    PLAIN,
    TOKENS,
    TOKENS_SQUARED,
)
from serving.compilation import compiled

TILTS, RESOLVED, FINEST, SPAN = 32, 3.0, 352, 2.2
"""Saddle points; grid steps that a mean remaining work must span for the recursion; steps of the
recursion at most; and how many saturated sets' work it covers at most."""

BEYOND = 24
"""Levels from where the recursion ends to where the closure does."""

NEVER = 20.0
"""V exceeds its reach with a probability below exp(-NEVER)."""

FREE = 0.5
"""Work over that of a saturated set up to which requests hardly ever fill a batch."""

DEMAND, AT_WORK, SPREAD, REQUESTS = range(4)
"""Rows of what is expected given the work in system V.

``DEMAND`` [tokens] is E[X | V], ``AT_WORK`` [tokens] the part of it that is executing, ``SPREAD``
[tokens] the standard deviation of X given V, and ``REQUESTS`` [requests] E[N | V].
"""

ALL, BESIDES_ONE, BESIDES_TWO = range(3)
"""Stages that the recursion picks out of the law of V: none, one, two."""


@compiled
def configuration(stages, q, shape, own, d_1, set_mean):
    """Return V on a grid, what is expected given V (DEMAND ... REQUESTS), and the reach of V."""
    n = stages.shape[2]
    law = np.empty((5, n))  # by rows as those of the stages: COUNT ... TOKENS_SQUARED
    total = 0.0
    for b in range(n):
        for row in range(5):
            law[row, b] = own * stages[PLAIN, row, b] + d_1 * stages[BY_TOKENS, row, b]
        total += law[COUNT, b]
    law /= total
    mean, square = 0.0, 0.0
    for b in range(n):
        mean += law[LEFT, b]
        square += law[LEFT, b] * law[LEFT, b] / law[COUNT, b]
    tilted, at_tilts, rarity = _saddle_points(law, q, shape)
    reach = np.inf
    for t in range(1, TILTS + 1):
        if rarity[t] >= NEVER:
            reach = tilted[t]
            break
    if reach > FREE * set_mean:
        reach = np.inf
    covered = min(reach, SPAN * set_mean)
    step = max(covered / FINEST, square / mean / 6.0)
    points = int(covered / step) + 2
    beyond = BEYOND if covered < SPAN * set_mean else 0
    level = np.empty(points + beyond)
    for k in range(points):
        level[k] = k * step
    for k in range(beyond):
        level[points + k] = level[points - 1] * (SPAN * set_mean / covered) ** ((k + 1.0) / beyond)
    given = np.zeros((4, points + beyond))
    for row in range(4):
        given[row] = np.interp(level, tilted, at_tilts[row])
    if square / mean >= RESOLVED * step:
        _panjer(law, q, shape, step, given[:, :points])
    return level, given, reach


@compiled
def _saddle_points(law, q, shape):
    """Return V at tilts, rising from 0, with what is expected given V and how rare more is.

    The former by the rows ``DEMAND ... REQUESTS``, the latter as minus the logarithm of Chernoff's
    bound.
    """
    n = law.shape[1]
    work = law[LEFT] / law[COUNT]
    low = 0.0  # q E[exp(theta R)] = 1: where V has no bound; Newton on the logarithm, from above
    theta = np.log(1.0 / q) / (np.sum(law[LEFT] * work) / np.sum(law[LEFT]))
    while True:
        f = np.sum(law[COUNT] * np.exp(theta * work))
        if q * f >= 1.0:
            break
        low = theta
        theta *= 1.5
    for _ in range(12):
        e = law[COUNT] * np.exp(theta * work)
        change = np.log(q * np.sum(e)) * np.sum(e) / np.sum(e * work)
        theta -= change
        if change < 1e-9 * theta:
            break
    low = theta * (1.0 - 1e-8)
    level, given, rarity = np.zeros(TILTS + 1), np.zeros((4, TILTS + 1)), np.zeros(TILTS + 1)
    for t in range(TILTS):
        theta = low * (1.0 - 3e-3 * 1e5 ** (1.0 - t / (TILTS - 1.0)))
        f = r = c = x = rr = rc = cc = 0.0
        for b in range(n):
            e = np.exp(theta * work[b])
            f += e * law[COUNT, b]
            r += e * law[LEFT, b]
            c += e * law[TOKENS, b]
            x += e * law[EXECUTING, b]
            rr += e * law[LEFT, b] * work[b]
            rc += e * law[TOKENS, b] * work[b]
            cc += e * law[TOKENS_SQUARED, b]
        u = q / (1.0 - q * f)
        vv, vx, xx = rr + u * r * r, rc + u * r * c, cc + u * c * c
        level[t + 1] = shape * u * r
        if theta > 0.0:
            rarity[t + 1] = theta * level[t + 1] - shape * np.log((1.0 - q) / (1.0 - q * f))
        given[DEMAND, t + 1] = shape * u * c
        given[AT_WORK, t + 1] = shape * u * x
        given[REQUESTS, t + 1] = shape * u * f
        if vv > 0.0:
            given[SPREAD, t + 1] = np.sqrt(shape * u * max(xx - vx * vx / vv, 0.0))
    return level, given, rarity


@compiled
def _panjer(law, q, shape, step, given):
    """Overwrite what is expected given V, by rows DEMAND ... REQUESTS, by the law on a grid.

    The generating function of V is ``((1 - q) / (1 - q phi))^shape``; a stage picked out of it
    leaves the same with ``shape + 1``, two stages ``shape + 2``: rows ALL, BESIDES_ONE, BESIDES_TWO
    of ``f``. The law of a stage on the grid is ``nu``, by the rows of ``law``.
    """
    points = given.shape[1]
    support = 1
    nu = np.zeros((5, points + 2))
    for b in range(law.shape[1]):
        at = law[LEFT, b] / law[COUNT, b] / step
        i = int(at)
        if i + 1 < points + 2:
            support = max(support, i + 2)
            for row in (COUNT, TOKENS, EXECUTING, TOKENS_SQUARED):
                nu[row, i] += (1.0 - (at - i)) * law[row, b]
                nu[row, i + 1] += (at - i) * law[row, b]
    support = min(support, points)
    f = np.zeros((3, points))
    f[:, 0] = 1.0
    pairs = np.zeros(points)  # nu[TOKENS] convolved with f[BESIDES_TWO]
    g = 1.0 / (1.0 - q * nu[COUNT, 0])
    for k in range(points):
        last = min(k, support - 1)
        if k > 0:
            for picked in (ALL, BESIDES_ONE, BESIDES_TWO):
                a, b = q, (shape + picked - 1.0) * q
                total = 0.0
                for j in range(1, last + 1):
                    total += (a + b * j / k) * nu[COUNT, j] * f[picked, k - j]
                f[picked, k] = total * g
        n = c = x = cc = pair = two = 0.0
        for j in range(last + 1):
            n += nu[COUNT, j] * f[BESIDES_ONE, k - j]
            c += nu[TOKENS, j] * f[BESIDES_ONE, k - j]
            x += nu[EXECUTING, j] * f[BESIDES_ONE, k - j]
            cc += nu[TOKENS_SQUARED, j] * f[BESIDES_ONE, k - j]
            pair += nu[TOKENS, j] * f[BESIDES_TWO, k - j]
        pairs[k] = pair
        for j in range(last + 1):
            two += nu[TOKENS, j] * pairs[k - j]
        if f[ALL, k] > 0.0:
            scale = shape * q * g / f[ALL, k]
            given[DEMAND, k] = scale * c
            given[AT_WORK, k] = scale * x
            given[REQUESTS, k] = scale * n
            square = scale * (cc + (shape + 1.0) * q * g * two)
            given[SPREAD, k] = np.sqrt(max(square - given[DEMAND, k] ** 2, 0.0))
        if f[BESIDES_TWO, k] > 1e200:
            f *= 1e-200
            pairs *= 1e-200
