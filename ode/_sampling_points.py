"""Where latency samples read a continuum: points that fill it evenly."""

from __future__ import annotations

GOLDEN = 0.5 * (5**0.5 - 1)
"""Successive multiples of this, modulo 1, fill the unit interval evenly, in any run of them."""
