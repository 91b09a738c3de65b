"""What a solver returns, whatever the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import LatencySamples, ServingMetrics, Trajectory


@dataclass(frozen=True, eq=False)
class Solution:
    """A fluid solution; ``solution("waiting [requests]", t)`` interpolates.

    Parameters
    ----------
    method
        Name of the solver that ran.
    status, message
        ``"done"``, and in words how it ended.
    stats
        Cost and resolution: steps, right-hand-side evaluations, step sizes.
    labels
        Caveats, such as ``"approximate: ..."``; empty for an exact reading of the engine's rules.
    totals
        The fields of :class:`serving.ServingMetrics` that are not latencies.
    outputs, latencies
        Yield the trajectory and the latency samples when asked; solving does not pay for them.
    """

    method: str
    status: str
    message: str
    stats: Mapping[str, float]
    labels: tuple[str, ...]
    totals: Mapping[str, float]
    outputs: Callable[[], Trajectory]
    latencies: Callable[[], LatencySamples]

    @cached_property
    def trajectory(self) -> Trajectory:
        """Every output of the vocabulary over time.

        What holds during a batch is linear through the middles of the batches: its average over
        one batch, as the mean over replications of a discrete run is.
        """
        return self.outputs()

    def __call__(self, name: str, t: ArrayLike) -> NDArray[np.float64]:
        """Return an output, by name or full key, at times ``t``."""
        return self.trajectory(name, t)

    def samples(self) -> LatencySamples:
        """Return latencies of the flow, weighted by mass."""
        return self.latencies()

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the same metrics object that a discrete run returns."""
        return ServingMetrics.summarise(self.samples(), goodput=goodput, **self.totals)
