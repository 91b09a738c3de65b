"""The few functions of the features in which bias and interval are linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SMALLEST, LARGEST = 3.0, 3000.0
"""Requests that fit, between which errors were measured."""

NEAR = 0.1
"""Distance of the load from 1 at which the nearness to capacity has halved."""

GROWING = (
    "size", "near", "scatter", "largest", "cv_work", "size_near", "size_over", "size_scatter",
)  # fmt: skip
"""Terms with which an interval may only grow: fewer requests, nearer to capacity, more scatter."""

FREE = (
    "over", "peak_over", "young", "age", "own", "growth", "prompt", "queue", "tail", "stay",
    "young_over", "size_queue", "sacrifice", "size_peak", "alike", "alike_size", "alike_young",
)  # fmt: skip

ALIKE = 0.15
"""CV of the decode lengths at which requests have lost most of what keeps them in step."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Terms, and with which of them an interval may only grow.

    Parameters
    ----------
    terms
        From the features of a case to the terms by name; ``one`` is 1.
    growing, free
        Names of the terms besides.
    """

    terms: Callable[[Mapping[str, float]], Mapping[str, float]]
    growing: tuple[str, ...]
    free: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all terms, in the order of the fit."""
        return ("one", *self.growing, *self.free)


def terms(features: Mapping[str, float]) -> dict[str, float]:
    """Return the terms of features, each within a range of a few units."""
    size = math.log(LARGEST / min(max(features["fit"], 1.0), 2 * LARGEST)) / math.log(
        LARGEST / SMALLEST
    )
    load, peak = features["load"], features["peak"]
    near = 1.0 / (1.0 + abs(load - 1.0) / NEAR)
    over = min(max(load - 0.7, 0.0), 0.8)
    peak_over = min(max(peak - 0.8, 0.0), 1.5)
    scatter = abs(math.log(max(features["dispersion"], 1e-3)))
    age = features["age"]
    young = 1.0 / (1.0 + age) if age > 0 else 0.0
    alike = math.exp(-min(features["cv_decode"], 10.0) / ALIKE)
    queue = math.log1p(min(max(features.get("ttft_steps", 0.0), 0.0), 1e5))
    return {
        "one": 1.0,
        "size": size,
        "near": near,
        "scatter": scatter,
        "largest": math.log1p(10 * min(features["largest"], 2.0)),
        "cv_work": math.log1p(features["cv_work"]),
        "size_near": size * near,
        "size_over": size * over,
        "size_scatter": size * scatter,
        "over": over,
        "peak_over": peak_over,
        "young": young,
        "age": math.log1p(min(age, 1e3)),
        "own": math.log1p(min(max(features["own"], 0.0), 30.0)),
        "growth": math.log(min(max(features["growth"], 0.1), 100.0)),
        "prompt": math.log1p(min(features["prompt_steps"], 20.0)),
        "queue": queue,
        "tail": _log_of(features.get("tail", 1.0)),
        "stay": _log_of(features.get("stay", 1.0)),
        "young_over": young * over,
        "size_queue": size * queue,
        "sacrifice": features.get("sacrifice", 0.0) * (over + peak_over),
        "size_peak": size * peak_over,
        "alike": alike,
        "alike_size": alike * size,
        "alike_young": alike * young,
    }


def _log_of(value: float) -> float:
    return math.log(min(max(value, 1e-2), 1e3)) if value == value else 0.0


LATENCIES = Basis(terms, GROWING, FREE)
"""Of latencies and of the mean number in the system."""
