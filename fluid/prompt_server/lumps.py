"""How the prompt tokens of a step scatter about their mean, for laws that bend in them.

Prompts come one by one: a step has none, one, or several, and one may be ten times as long as
another. Where the time of a step is a line in its prompt tokens, their mean is all that matters.
Where it bends or jumps (beyond the sizes that CUDA graphs were captured for, say), the mean time is
the mean over the numbers of tokens. Their number is compound Poisson. Given that anybody starts, it
is kept here as a few equally likely numbers, over their mean, for each number of requests that
start on average.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NODES = 16
"""Equally likely numbers of prompt tokens that stand for all."""

LAST, PER_OCTAVE, FIRST = 16, 2, 8.0
"""Rows of a table but for row 0: row k is of ``(2^(k / PER_OCTAVE) - 1) / FIRST`` requests that
start, and row 0 of a single one."""

MOST = (2.0 ** (LAST / PER_OCTAVE) - 1.0) / FIRST
"""Requests that start in the last row; with more, the scatter falls like one over the root."""

POINTS, REACH = 2048, 8.0
"""Points of the grid of tokens, and standard deviations that it reaches beyond the mean."""

PASSES = 4
"""How often tokens beyond a full step are dealt to the others."""


def scatter_of(own: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return prompt tokens over their mean by requests that start, shape (LAST + 1, NODES).

    Parameters
    ----------
    own : shape (J,) [tokens]
        That a prompt computes.
    share : shape (J,)
        Of the requests.

    Returns
    -------
    ndarray or None
        None where nobody computes any.
    """
    mean = float(share @ own)
    if mean <= 0:
        return None
    own = own / mean
    rows = [_of_single(own, share)]
    rows += [_of_several(own, share, _entering(k)) for k in range(1, LAST + 1)]
    return np.ascontiguousarray(rows)


def relative_tokens(
    table: NDArray[np.float64], entering: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return prompt tokens of a step that anybody starts in, over their mean.

    Parameters
    ----------
    table
        Of :func:`scatter_of`.
    entering : [requests]
        That start in a step on average, of any shape (...).

    Returns
    -------
    ndarray
        Shape (..., NODES).
    """
    place = np.minimum(PER_OCTAVE * np.log2(1.0 + FIRST * entering), LAST)
    row = np.minimum(place.astype(np.int64), LAST - 1)
    part = (place - row)[..., None]
    near = (1.0 - part) * table[row] + part * table[row + 1]
    return 1.0 + (near - 1.0) * np.sqrt(MOST / np.maximum(entering, MOST))[..., None]


def within(scatter: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers of which none is larger than ``most`` (...,  1), with the same mean if it can.

    What does not fit into a step is computed in another one.
    """
    for _ in range(PASSES):
        over = np.maximum(scatter - most, 0.0).mean(axis=-1, keepdims=True)
        if not over.any():
            return scatter
        room = np.maximum((scatter < most).mean(axis=-1, keepdims=True), 1.0 / NODES)
        scatter = np.where(scatter < most, scatter + over / room, most)
    return np.minimum(scatter, most)


def _entering(row: int) -> float:
    return (2.0 ** (row / PER_OCTAVE) - 1.0) / FIRST


def _of_single(own: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(own, kind="stable")
    return _by_chance(own[order], share[order])


def _of_several(
    own: NDArray[np.float64], share: NDArray[np.float64], entering: float
) -> NDArray[np.float64]:
    """Return the numbers for a Poisson number of prompts, at least one."""
    square = float(share @ own**2)
    reach = entering + REACH * np.sqrt(entering * square) + float(own.max())
    step = reach / (POINTS - 2)
    place = own / step
    low = place.astype(np.int64)
    part = place - low
    single = np.bincount(low, share * (1 - part), POINTS) + np.bincount(
        low + 1, share * part, POINTS
    )
    turned = np.exp(entering * (np.fft.rfft(single, 2 * POINTS) - 1.0))
    sums = np.fft.irfft(turned, 2 * POINTS)[:POINTS]
    sums[0] -= np.exp(-entering)
    return _by_chance(step * np.arange(POINTS), np.maximum(sums, 0.0))


def _by_chance(value: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of NODES equally likely parts of sorted values, over the mean of all."""
    weight = weight / weight.sum()
    chance = np.append(0.0, np.cumsum(weight))
    below = np.append(0.0, np.cumsum(weight * value))
    edges = np.interp(np.arange(NODES + 1) / NODES, chance, below)
    part = np.diff(edges)
    return part / part.mean()
