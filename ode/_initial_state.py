"""Where a solution starts when the server is not empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, FluidServeError
from serving.arguments import check_fields


def _none() -> NDArray[np.float64]:
    return np.empty((0, 3))


@dataclass(frozen=True, slots=True, eq=False)
class InitialState:
    """Requests in the system at time 0.

    Parameters
    ----------
    waiting : [requests]
        Fresh requests in WAITING, counted as arrivals at time 0.
    running, swapped : shape (R, 3) [requests, tokens, tokens]
        Columns mass (alive), age (tokens decoded since the last start) and furthest (tokens ever
        decoded; equal to the age except after a sacrifice), oldest entry first.

    Raises
    ------
    FluidServeError
        If a mass or an age is negative or not finite, or furthest < age.
    """

    waiting: float = 0.0
    running: NDArray[np.float64] = field(default_factory=_none)
    swapped: NDArray[np.float64] = field(default_factory=_none)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("running", "swapped"):
            rows = np.array(getattr(self, name), float, order="C")
            if rows.size == 0:
                object.__setattr__(self, name, _none())
                continue
            if rows.ndim != 2 or rows.shape[1] != 3:
                raise FluidServeError(f"initial {name} needs columns mass, age, furthest")
            if not np.isfinite(rows).all() or (rows < 0).any() or (rows[:, 2] < rows[:, 1]).any():
                raise FluidServeError(
                    f"initial {name}: allowed are finite masses and ages >= 0, furthest >= age"
                )
            object.__setattr__(self, name, rows)
        if not (isfinite(self.waiting) and self.waiting >= 0):
            raise ConfigError("initial_waiting", self.waiting, "a finite number >= 0")

    @property
    def mass(self) -> float:
        """Requests in the system at time 0."""
        return float(self.waiting + self.running[:, 0].sum() + self.swapped[:, 0].sum())
