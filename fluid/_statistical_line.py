"""The line that stands for a batch-time law which bends, among batches that vary.

Batches hold more requests than usual at one time and fewer at another. Where the law bends within
that range its tangent says neither the mean duration nor how the duration follows the requests. The
statistical line says both: at the mean it has the mean of the durations, and its slope is that of
their regression on the requests. Where the law does not bend within the range it is the tangent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import BatchTimeLaw, Tangent

QUANTILES = 48
"""Equally likely numbers of requests that stand for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How the requests of a batch vary about their mean N.

    Parameters
    ----------
    relative : shape (Q,)
        Equally likely values of ``(requests - 1) / (N - 1)``, of mean 1: no batch is empty.
    """

    relative: NDArray[np.float64]

    @classmethod
    def of(cls, requests: float, variance: float) -> Spread:
        """Return the spread of Gamma-distributed requests beyond the first.

        Parameters
        ----------
        requests, variance : [requests], [requests^2]
            Mean and variance over batches.
        """
        from scipy.special import gammaincinv

        others = requests - 1
        if others <= 1e-9 or variance <= 1e-12 * others**2:
            return ALIKE
        shape = others**2 / variance
        values = gammaincinv(shape, (np.arange(QUANTILES) + 0.5) / QUANTILES) / shape
        return cls(values + (1 - values.mean()))

    def duration(self, law: BatchTimeLaw, tokens: Any, requests: Any) -> Any:
        """Return the mean duration [time] of batches with these means (scalars or arrays)."""
        if self is ALIKE:
            return law.duration(tokens, requests)
        tokens, requests = np.asarray(tokens)[..., None], np.asarray(requests)[..., None]
        return law.duration(tokens, 1 + (requests - 1) * self.relative).mean(axis=-1)

    def line(self, law: BatchTimeLaw, tokens: float, requests: float) -> Tangent:
        """Return the statistical line of ``law`` about a batch; the tangent where all are alike."""
        tangent = law.tangent(tokens, requests)
        others = (requests - 1) * (self.relative - 1)
        square = float(others @ others)
        if square <= 0:
            return tangent
        time = law.duration(tokens, requests + others)
        slope = float(others @ time) / square
        at_nothing = float(time.mean()) - tangent.per_token * tokens - slope * requests
        return Tangent(at_nothing, tangent.per_token, slope)


ALIKE = Spread(np.ones(1))
"""All batches hold as many requests."""
