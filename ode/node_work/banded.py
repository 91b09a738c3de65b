"""Banded linear systems without pivoting: the matrices here are dominated by their diagonals.

A matrix is stored by rows: ``band[i, below + j - i]`` is entry (i, j), for j from ``i - below`` to
``i + above``.
"""

from __future__ import annotations

import numpy as np

from serving.compilation import compiled


@compiled
def factorise(band, below):
    """Replace ``band`` by its LU factors, L with a unit diagonal."""
    n, width = band.shape
    above = width - 1 - below
    inverse = np.empty(n)
    for i in range(n):
        for k in range(max(0, i - below), i):
            factor = band[i, below + k - i]
            if factor == 0.0:
                continue
            factor *= inverse[k]
            band[i, below + k - i] = factor
            for j in range(k + 1, min(n, k + above + 1)):
                band[i, below + j - i] -= factor * band[k, below + j - k]
        inverse[i] = 1.0 / band[i, below]


# Unsigned positions spare the loop the check for negative indices, which would keep it scalar.


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _dot(row, first, x, at, count):
    """Return the sum of ``row[first + k] * x[at + k]`` over ``count`` places."""
    total = 0.0
    for k in range(np.uint64(count)):
        total += row[np.uint64(first) + k] * x[np.uint64(at) + k]
    return total


@compiled
def solve(band, below, x):
    """Solve in place for the right-hand side ``x``, ``band`` being factorised."""
    n, width = band.shape
    above = width - 1 - below
    for i in range(n):
        known = min(below, i)
        x[i] -= _dot(band[i], below - known, x, i - known, known)
    for i in range(n - 1, -1, -1):
        total = x[i]
        for j in range(i + 1, min(n, i + above + 1)):
            total -= band[i, below + j - i] * x[j]
        x[i] = total / band[i, below]


@compiled
def solve_two(band, below, x, y):
    """Solve in place for two right-hand sides at once."""
    n, width = band.shape
    above = width - 1 - below
    for i in range(n):
        one, two = x[i], y[i]
        for j in range(max(0, i - below), i):
            factor = band[i, below + j - i]
            one -= factor * x[j]
            two -= factor * y[j]
        x[i], y[i] = one, two
    for i in range(n - 1, -1, -1):
        one, two = x[i], y[i]
        for j in range(i + 1, min(n, i + above + 1)):
            factor = band[i, below + j - i]
            one -= factor * x[j]
            two -= factor * y[j]
        inverse = 1.0 / band[i, below]
        x[i], y[i] = one * inverse, two * inverse


@compiled
def multiply(band, below, x, out):
    """Write ``band @ x`` into ``out``."""
    n, width = band.shape
    for i in range(n):
        first = max(0, below - i)
        out[i] = _dot(band[i], first, x, i + first - below, min(width, n + below - i) - first)


@compiled
def transposed(band, below):
    """Return the transpose; its ``below`` is what was above."""
    n, width = band.shape
    above = width - 1 - below
    out = np.zeros((n, width))
    for i in range(n):
        for column in range(max(0, below - i), min(width, n + below - i)):
            j = i + column - below
            out[j, above + i - j] = band[i, column]
    return out


@compiled
def shifted(band, below, factor):
    """Return ``1 - factor * band``."""
    out = -factor * band
    out[:, below] += 1.0
    return out
