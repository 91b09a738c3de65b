"""How this room compiles: cached on disk, IEEE arithmetic in the order written."""

from __future__ import annotations

from numba import njit

compiled = njit(cache=True, error_model="numpy")
