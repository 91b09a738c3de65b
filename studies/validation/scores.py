"""Measured against predicted: latencies, throughput, and requests over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.metrics import weighted_percentile
from studies.validation.prediction import Prediction

LATENCIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Score:
    """A number that was measured, and what a model says of it; NaN where nobody knows it."""

    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative error of the prediction; NaN where the measured value is 0 or unknown."""
        if not self.measured > 0:
            return float("nan")
        return self.predicted / self.measured - 1


def latency_scores(measured: Prediction, predicted: Prediction) -> dict[str, dict[str, Score]]:
    """Return a score by latency and statistic [s]; of latencies that were measured."""
    scores = {}
    for latency in LATENCIES:
        of = [_statistics(*_samples(each, latency)) for each in (measured, predicted)]
        if np.isfinite(of[0]["mean"]):
            scores[latency] = {name: Score(of[0][name], of[1][name]) for name in STATISTICS}
    return scores


def _samples(of: Prediction, latency: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if latency == "itl":
        return of.gaps, of.gap_weight
    values = {"ttft": of.ttft, "tpot": of.tpot, "e2el": of.e2el}[latency]
    known = np.isfinite(values)
    weight = np.ones(values.size) if of.weight is None else of.weight
    return values[known], weight[known]


def _statistics(values: NDArray[np.float64], weight: NDArray[np.float64]) -> dict[str, float]:
    if not values.size:
        return dict.fromkeys(STATISTICS, float("nan"))
    marks = weighted_percentile(values, weight, [50, 90, 99]).tolist()
    mean = float(np.sum(values * weight) / weight.sum())
    return dict(zip(STATISTICS, [mean, *marks], strict=True))


def total_scores(measured: Prediction, predicted: Prediction) -> dict[str, Score]:
    """Return the scores of completed requests, makespan [s] and throughput [requests/s].

    The makespan ends with the last answer.
    """
    of = [_totals(each) for each in (measured, predicted)]
    return {name: Score(of[0][name], of[1][name]) for name in of[0]}


def _totals(of: Prediction) -> dict[str, float]:
    if of.totals is not None:
        return _with_rate(of.totals["completed"], of.totals["makespan"])
    done = np.isfinite(of.finish)
    span = float(np.nanmax(of.finish) - of.arrival.min()) if done.any() else float("nan")
    return _with_rate(float(done.sum()), span)


def _with_rate(count: float, span: float) -> dict[str, float]:
    return {"completed": count, "makespan": span,
            "request_throughput": count / span if span > 0 else float("nan")}  # fmt: skip


def series_scores(measured: Prediction, predicted: Prediction) -> dict[str, Mapping[str, float]]:
    """Return, of every series that both have, the two means and the error over time.

    The error is the root mean square of the difference, relative to the mean measured value.
    """
    scores = {}
    for name, values in measured.series.items():
        other = predicted.series.get(name)
        if other is None or not values.size:
            continue
        mean = float(values.mean())
        off = float(np.sqrt(np.mean((other - values) ** 2)))
        scores[name] = {
            "measured": mean, "predicted": float(other.mean()),
            "nrmse": off / mean if mean > 0 else float("nan"),
        }  # fmt: skip
    return scores


def in_system(of: Prediction, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many requests that finish were under way at each time of a grid, shape (T,)."""
    if of.totals is not None:
        return of.series["running"] + of.series["waiting"]
    done = np.isfinite(of.finish)
    came = np.searchsorted(np.sort(of.arrival[done]), grid, side="right")
    gone = np.searchsorted(np.sort(of.finish[done]), grid, side="right")
    return (came - gone).astype(float)
