"""Mean, deviation, range and percentiles of samples, and of what a gauge showed over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.trajectory import Trajectory

WIDE_PERCENTILES = {
    "p0p1": 0.1, "p1": 1, "p5": 5, "p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90,
    "p95": 95, "p99": 99, "p99p9": 99.9,
}  # fmt: skip
"""Percentiles by name, from one in a thousand to all but one in a thousand."""


def sample_statistics(samples: NDArray[np.float64]) -> dict[str, float]:
    """Return mean, deviation, range and percentiles by name; nothing where there is no sample.

    The deviation divides by the number of samples; percentiles lie linearly between them.
    """
    if not samples.size:
        return {}
    at = np.percentile(samples, list(WIDE_PERCENTILES.values())).tolist()
    return {
        "mean": float(samples.mean()),
        "stddev": float(samples.std()),
        "min": float(samples.min()),
        **dict(zip(WIDE_PERCENTILES, at, strict=True)),
        "max": float(samples.max()),
    }


def gauge_statistics(trajectory: Trajectory, name: str, end: float) -> dict[str, float]:
    """Return mean over time, and range, of an output that holds its values up to ``end`` [time].

    Nothing where the trajectory lasts no time.
    """
    lasts = np.diff(np.append(trajectory.time, end))
    held = lasts > 0
    if not held.any():
        return {}
    values = trajectory.outputs[name][held]
    return {
        "mean": float(np.sum(values * lasts[held]) / np.sum(lasts[held])),
        "min": float(values.min()),
        "max": float(values.max()),
    }
