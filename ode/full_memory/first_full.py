"""The mean time until chance fills a memory, and how far off it is expected to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluid import healthy_batch_time, mean_time_to_full, requests_that_fit, saturation
from ode.error_model.model import COVERS, Expected
from serving import DecodeNode, RequestMix, answers

FEATURES = ("one", "size", "fixed", "scatter")
"""``size`` is one over the root of the requests that fit; ``fixed`` the share of the batch time
that does not grow with them; ``scatter`` the CV of the decode lengths."""

BIAS = {"one": -0.1012, "size": -0.0272, "fixed": -0.0453, "scatter": 0.1569}
HALF_WIDTH = 0.166
"""What ``python benchmarks/time_to_full.py learn`` prints, of the logarithm of predicted over
engine: 41 nodes with one prompt length, Poisson arrivals and 15 to 500 requests that fit."""

LONGEST = 200.0
"""Stays of a request up to which times were measured. Beyond, an error of the exponent counts as
many times as the logarithm of the time is larger."""


@dataclass(frozen=True, slots=True)
class TimeToFull:
    """A mean time to a full memory.

    Parameters
    ----------
    mean : [time]
        See :func:`fluid.mean_time_to_full`.
    error
        How far it is expected to be from the engine's mean.
    """

    mean: float
    error: Expected

    @property
    def interval(self) -> tuple[float, float]:
        """Between which the engine's mean is expected [time]."""
        low, high = self.error.interval
        return self.mean / (1 + high), self.mean / (1 + low)

    @property
    def words(self) -> str:
        """One line."""
        if not math.isfinite(self.mean):
            return "memory never fills by chance"
        low, high = self.interval
        return (
            f"memory fills once in {self.mean:.2g} on average, by {100 * COVERS:.0f} % of such "
            f"answers once in {low:.2g} to {high:.2g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return mean and interval; null where it is infinite."""
        if not math.isfinite(self.mean):
            return {"mean": None, "low": None, "high": None, "covers": COVERS}
        low, high = self.interval
        return {"mean": self.mean, "low": low, "high": high, "covers": COVERS}


@answers("decode_node")
def time_to_full(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> TimeToFull:
    """Return the mean time until an empty node first has no room, with its interval.

    Parameters
    ----------
    mix, instance, arrival_rate
        As for :func:`fluid.mean_time_to_full`.
    """
    mean = mean_time_to_full(mix, instance, arrival_rate)
    at = features(mix, instance, arrival_rate)
    stay = mix.mean_decode * saturation(mix, instance).batch_time
    stays = min(mean / stay, 1e300) if stay > 0 else 1.0
    further = max(1.0, math.log(max(stays, 1.0)) / math.log(LONGEST))
    bias = sum(BIAS[name] * at[name] for name in FEATURES)
    return TimeToFull(mean, Expected(further * bias, further * HALF_WIDTH))


def features(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> dict[str, float]:
    """Return what the error depends on, by :data:`FEATURES`."""
    tau = healthy_batch_time(mix, instance, arrival_rate)
    full = saturation(mix, instance).batch_time
    decode = np.asarray(mix.decode, float)
    square = float(mix.probability @ decode**2) / mix.mean_decode**2
    return {
        "one": 1.0,
        "size": 1.0 / math.sqrt(max(requests_that_fit(mix, instance), 1.0)),
        "fixed": float(instance.batch_time.duration(0.0, 0.0)) / min(tau, full),
        "scatter": math.sqrt(max(square - 1.0, 0.0)),
    }
