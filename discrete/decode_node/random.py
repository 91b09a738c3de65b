"""NumPy's PCG64 in compiled code: the very draws of ``np.random.Generator(PCG64(seed))``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.compilation import compiled
from serving.compiled_memory import record_at

LOW_32 = np.uint64(0xFFFFFFFF)
MULTIPLIER_HIGH = np.uint64(2549297995355413924)
MULTIPLIER_LOW = np.uint64(4865540595714422341)
S32, S58, S63, S64 = np.uint64(32), np.uint64(58), np.uint64(63), np.uint64(64)
ONE, ZERO = np.uint64(1), np.uint64(0)

PCG64 = np.dtype(
    [
        (name, np.uint64)
        for name in ("high", "low", "increment_high", "increment_low", "half_left", "half")
    ]
)
"""The 128-bit state and increment; whether half a draw is left, and that half."""

pcg64_at = record_at(PCG64)


def pcg64_state(seed: int) -> NDArray:
    """Return the generator's initial state for ``seed``, one record of :data:`PCG64`."""
    inner = np.random.PCG64(seed).state["state"]
    words = [inner["state"] >> 64, inner["state"], inner["inc"] >> 64, inner["inc"]]
    return np.array([(*(word & (2**64 - 1) for word in words), 0, 0)], PCG64)


@compiled
def _high_product(a, b):
    """Return the upper 64 bits of the 128-bit product of two uint64."""
    a0, a1, b0, b1 = a & LOW_32, a >> S32, b & LOW_32, b >> S32
    middle = a1 * b0 + ((a0 * b0) >> S32)
    other = a0 * b1 + (middle & LOW_32)
    return a1 * b1 + (middle >> S32) + (other >> S32)


@compiled
def _next_64(g):
    """Step the 128-bit congruential generator and permute its state (XSL-RR)."""
    high = _high_product(g.low, MULTIPLIER_LOW) + g.high * MULTIPLIER_LOW + g.low * MULTIPLIER_HIGH
    low = g.low * MULTIPLIER_LOW + g.increment_low
    high += g.increment_high + (ONE if low < g.increment_low else ZERO)
    g.high, g.low = high, low
    word, turn = high ^ low, high >> S58
    return (word >> turn) | (word << ((S64 - turn) & S63))


@compiled
def _next_32(g):
    """Return half a draw; the other half is kept for the next call."""
    if g.half_left != ZERO:
        g.half_left = ZERO
        return g.half
    word = _next_64(g)
    g.half_left, g.half = ONE, word >> S32
    return word & LOW_32


@compiled
def draw_integer(g, bound):
    """Return ``Generator.integers(bound)`` for 1 <= bound < 2**32 (Lemire's method)."""
    if bound == 1:
        return 0
    n = np.uint64(bound)
    product = _next_32(g) * n
    if (product & LOW_32) < n:
        reject_below = (LOW_32 - (n - ONE)) % n
        while (product & LOW_32) < reject_below:
            product = _next_32(g) * n
    return np.int64(product >> S32)
