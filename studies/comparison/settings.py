"""How a question is replicated: how often, what is kept, and where the replications run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import OUTPUTS
from serving.arguments import check, check_fields

GRID_POINTS = 1000
"""Points of the grid on which trajectories are compared."""

BAND = (5.0, 95.0)
"""Percentiles over replications between which the bands lie."""

WORTH_A_POOL = 1.5
"""Expected time of all replications [s] above which worker processes are started by default."""

MOST_FOR_BANDS = 512
"""Replications that are kept whole for the bands; with more, the first so many."""

FIRST_LOOK = 16
"""Replications before :attr:`Replications.wanted` is asked for the first time."""

Wanted = Callable[[NDArray[np.float64], NDArray[np.float64]], float]
"""From mean and standard deviation so far, shape (O, G) each, to the replications it takes."""

Told = Callable[[str, int, int], None]
"""Called with what is under way, and how much of it is done and to do."""


@dataclass(frozen=True, slots=True)
class Replications:
    """How many replications, what is kept of them, and where they run.

    Parameters
    ----------
    count
        How many, or the most where ``wanted`` is given.
    workers
        Processes; by default as many as there are processors where it pays, else none. Results do
        not depend on it.
    outputs
        Names of the outputs to sample.
    points
        Points of the uniform grid on [0, horizon].
    wanted
        Asked after the first few, and then whenever there are as many as it said.

    Raises
    ------
    ConfigError
        If a number is not a whole number >= 1.
    """

    count: int = 32
    workers: int | None = None
    outputs: tuple[str, ...] = tuple(OUTPUTS)
    points: int = GRID_POINTS
    wanted: Wanted | None = None

    def __post_init__(self) -> None:
        check("replications", self.count, int, ">= 1")
        check("workers", self.workers, int | None, ">= 1")
        check_fields(self, points=">= 2")
