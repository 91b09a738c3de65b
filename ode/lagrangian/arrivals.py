"""The arrival curve of the iteration clock: cumulative requests at knots, linear between."""

from __future__ import annotations

import numpy as np

from serving.compilation import compiled
from serving.compiled_memory import vector_at


@compiled
def arrivals_by(w, t):
    """Return the cumulative curve at ``t``; a cursor in the workspace makes it O(1) amortised."""
    size = w.knots_size
    knots, cumulative = vector_at(w.knots_at, size), vector_at(w.cumulative_at, size)
    k = w.knot
    while k + 1 < size and knots[k + 1] <= t:
        k += 1
    w.knot = k
    if k + 1 == size or t <= knots[k]:
        return cumulative[k]
    rise = (cumulative[k + 1] - cumulative[k]) / (knots[k + 1] - knots[k])
    return cumulative[k] + (t - knots[k]) * rise


@compiled
def fresh_arrivals(w):
    """Return the requests [requests] that arrived since the last look and up to ``now``."""
    return arrivals_by(w, min(w.now, w.horizon)) - w.arrived


@compiled
def next_arrival(w):
    """Return the first time >= now at which the curve rises again; infinity if never."""
    size = w.knots_size
    knots, cumulative = vector_at(w.knots_at, size), vector_at(w.cumulative_at, size)
    for k in range(w.knot, size - 1):
        if cumulative[k + 1] > max(cumulative[k], w.arrived):
            return max(w.now, knots[k] if knots[k + 1] > knots[k] else knots[k + 1])
    return np.inf


@compiled
def is_idle(running, arrived):
    """Say whether what is left in RUNNING is rounding only."""
    return running <= 1e-12 * max(1.0, arrived)
