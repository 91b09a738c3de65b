"""What a solver returns, whatever the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluid import Certificate
from ode.error_model.report import ErrorReport
from serving import (
    DecodeNode,
    Distribution,
    LatencySamples,
    ServingMetrics,
    Trajectory,
    UnsupportedError,
)
from serving.arguments import checked

GOLDEN = 0.5 * (5**0.5 - 1)
"""Latency samples read a continuum at successive multiples of this, modulo 1: any run of them fills
the unit interval evenly."""

FULL = 0.98
"""Share of the memory or of the batch budget that may be taken before a solution warns of what a
full node does."""


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
        Those of :data:`serving.TOTALS` that the solver knows.
    outputs, latencies
        Yield the trajectory and the latency samples when asked; solving does not pay for them.
    instance, certify
        The node, and what yields the certificate of its full equilibrium when asked;
        :func:`ode.solve` sets both.
    expects
        What yields the expected error of latencies when asked; :func:`ode.solve` sets it.
    """

    method: str
    status: str
    message: str
    stats: Mapping[str, float]
    labels: tuple[str, ...]
    totals: Mapping[str, float]
    outputs: Callable[[], Trajectory]
    latencies: Callable[[], LatencySamples]
    instance: DecodeNode | None = None
    certify: Callable[[], Certificate] | None = None
    expects: Callable[[Mapping[str, Distribution]], ErrorReport] | None = None

    @cached_property
    def certificate(self) -> Certificate:
        """Whether the equilibrium of the full node is stable, whatever the load.

        Raises
        ------
        UnsupportedError
            If this solution does not come from :func:`ode.solve`.
        """
        if self.certify is None:
            raise UnsupportedError("a certificate belongs to solutions of ode.solve")
        return self.certify()

    @cached_property
    def error(self) -> ErrorReport:
        """How far the latencies are expected to be from the engine's mean, and how surely."""
        if self.expects is None:
            return ErrorReport(reason="expected errors belong to solutions of ode.solve")
        return self.expects(self.metrics().latencies)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Labels, and the certificate's where this solution fills the memory or the batches."""
        if self.instance is None or not self.is_full.any():
            return self.labels
        return (*self.labels, *self.certificate.labels())

    @cached_property
    def is_full(self) -> NDArray[np.bool_]:
        """Whether memory or batches are full at each time of the trajectory."""
        outputs, instance = self.trajectory.outputs, self.instance
        full = np.zeros(self.trajectory.time.size, bool)
        if instance is None:
            return full
        if {"memory", "running"} <= outputs.keys():
            # a threshold keeps memory short of full; at 1 the next tokens are reserved as well
            most = min(instance.admission_threshold, FULL) * instance.M_total
            full |= outputs["memory"] + outputs["running"] >= most
        if "batch_tokens" in outputs:
            full |= outputs["batch_tokens"] >= FULL * instance.token_budget
        return full

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

    @checked()
    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the same metrics object that a discrete run returns."""
        return ServingMetrics.summarise(self.samples(), self.totals, goodput)
