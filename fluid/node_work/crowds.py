"""Arrivals that scatter more than Poisson ones, as crowds that come at Poisson times.

Crowds of a geometric number of requests, ``1 + crowd`` on average, scatter in the long run like
renewals whose gaps have the squared CV ``1 + 2 crowd``, and an arrival finds as many more just
before it.
"""

from __future__ import annotations

import numpy as np

from fluid.node_work.request_work import JUMP_BINS, Jumps
from serving.compilation import compiled

GRID = 400
"""Steps of work on which the law of a crowd's work is summed up."""

TAIL = 12.0
"""Mean works of a crowd beyond the longest request that the steps cover."""


def crowd_jumps(jumps: Jumps, crowd: float) -> Jumps:
    """Return the work that crowds bring, in bins like those of single requests.

    Parameters
    ----------
    jumps
        The work of a request.
    crowd
        More than 0: requests of a crowd besides the first, on average.
    """
    mean = float(jumps.work @ jumps.probability) * (1.0 + crowd)
    step = (float(jumps.work.max()) + TAIL * mean) / GRID
    law = _compound(jumps.work / step, jumps.probability, 1.0 / (1.0 + crowd), GRID)
    work = np.arange(GRID) * step
    kept = law > 0
    law, work = law[kept] / law[kept].sum(), work[kept]
    mass = np.cumsum(law * (work + 0.5 * step) ** 2)
    group = np.minimum((mass / mass[-1] * JUMP_BINS).astype(np.intp), JUMP_BINS - 1)
    share = np.asarray(np.bincount(group, law, JUMP_BINS), float)
    filled = share > 0
    sizes = np.bincount(group, law * work, JUMP_BINS)[filled] / share[filled]
    # the last steps cut the tail: the mean is that of the crowd
    return Jumps(sizes * mean / float(sizes @ share[filled]), share[filled])


@compiled
def _compound(sizes, share, last, points):
    """Return the law of a geometric number of jumps, by steps, each the last with chance ``last``.

    Panjer: ``g = last f + (1 - last) f * g``.
    """
    f, g = np.zeros(points), np.zeros(points)
    for b in range(sizes.size):
        i = int(sizes[b])
        if i + 1 < points:
            f[i] += share[b] * (1.0 - (sizes[b] - i))
            f[i + 1] += share[b] * (sizes[b] - i)
    for k in range(points):
        total = last * f[k]
        for j in range(1, k + 1):
            total += (1.0 - last) * f[j] * g[k - j]
        g[k] = total / (1.0 - (1.0 - last) * f[0])
    return g
