"""Latencies over a knob: the engine at some values with intervals, the fluid model in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import FluidServeError
from serving.metrics import latency_scale, weighted_percentile
from studies.question import Question
from studies.tuning.answer import Tuning
from studies.tuning.engine import run_steadily
from studies.tuning.knobs import Knob
from studies.tuning.screening import NEARLY_FULL, Predictor, load_of, prediction

LATENCIES = ("ttft", "tpot", "e2el")
STATISTICS = {"mean": None, "p50": 50, "p99": 99}
"""Statistics of a curve, and the percentile that each is."""

ENGINE_VALUES, FLUID_VALUES = 8, 25
"""Values of the knob at which engine and fluid model are asked, evenly over what is shown."""

REPLICATIONS = 5
"""Runs of the engine at each value, on the draws of the search."""

BEYOND = 1.02
"""Share of the first rate that misses the objectives up to which a curve of rates is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class LatencyCurve:
    """Statistics of latencies over a knob.

    Parameters
    ----------
    knob
        What is turned.
    engine_values, fluid_values : shape (E,), (F,)
        Values of the knob.
    engine : shape (E, S, 3) [time]
        Mean over replications and both ends of its confidence interval; NaN where a run was too
        overloaded to have a steady latency. Statistics as :func:`names` lists them.
    fluid : shape (F, S, 3) [time]
        What the fluid model predicts, NaN where it has no answer, and both ends of where the
        engine's mean is expected, NaN where nobody knows how far off it is.
    run_length : [requests]
        Of each run.
    replications
        At each value.
    """

    knob: Knob
    engine_values: NDArray[np.float64]
    engine: NDArray[np.float64]
    fluid_values: NDArray[np.float64]
    fluid: NDArray[np.float64]
    run_length: int
    replications: int

    def columns(self, time_unit: str) -> dict[str, Sequence[object]]:
        """Return one row per value and source; latencies under the names and units of metrics."""
        suffix, factor = latency_scale(time_unit)
        columns: dict[str, Sequence[object]] = {
            "source": ["engine"] * self.engine_values.size + ["fluid"] * self.fluid_values.size,
            self.knob.name: [*self.engine_values.tolist(), *self.fluid_values.tolist()],
        }
        for at, name in enumerate(names()):
            for part, ending in enumerate(("", "_low", "_high")):
                both = np.concatenate([self.engine[:, at, part], self.fluid[:, at, part]]) * factor
                columns[f"{name}{suffix}{ending}"] = both.tolist()
        return columns


def names() -> list[str]:
    """Return the statistics of a curve, such as ``p99_ttft``, in their order."""
    return [f"{statistic}_{latency}" for latency in LATENCIES for statistic in STATISTICS]


def latency_curve(
    found: Tuning,
    question: Question,
    *,
    predictor: Predictor | None = None,
    told: Callable[[str], None] | None = None,
) -> LatencyCurve:
    """Return latencies over the bracket in which a value was sought.

    Parameters
    ----------
    found
        Answer to the search, which says where to look and how long runs must be.
    question
        What was tuned.
    predictor
        Fluid model; the best there is by default.
    told
        Called with a word on progress.
    """
    knob, length = found.knob, found.settings.least_requests
    shown = _shown(found)
    ends = [end for end in _ends(found) if shown[0] <= end <= shown[1]]
    engine_values = sorted({*knob.spaced(shown, ENGINE_VALUES), *ends})
    engine = np.full((len(engine_values), len(names()), 3), math.nan)
    for row, value in enumerate(engine_values):
        if told is not None:
            told(f"curve at {knob.name} {value:.6g}")
        asked = knob.turned(question, value)
        engine[row] = _engine_at(asked, length, found.settings.confidence)
    fluid_values = sorted({*knob.spaced(shown, FLUID_VALUES), *ends})
    fluid = [_fluid_at(knob.turned(question, x), predictor) for x in fluid_values]
    return LatencyCurve(
        knob, np.array(engine_values), engine, np.array(fluid_values), np.array(fluid),
        length, REPLICATIONS,
    )  # fmt: skip


def _ends(found: Tuning) -> list[float]:
    """Return the values beside the answer; the answer itself where the model gave it."""
    answer = found.answer
    if answer is not None:
        return [answer.met.value, answer.missed.value]
    return [] if found.value is None else [found.value]


def _shown(found: Tuning) -> tuple[float, float]:
    """Return the values between which a curve runs: rates far beyond the answer have no latency."""
    low, high = found.scanned
    if found.knob.safe_below and found.answer is not None:
        high = min(high, BEYOND * found.answer.missed.value)
    elif found.knob.safe_below and found.interval is not None:
        high = min(high, BEYOND * found.interval[1])
    return low, high


def _engine_at(question: Question, length: int, confidence: float) -> NDArray[np.float64]:
    """Return mean, low and high of every statistic over replications, shape (S, 3)."""
    from scipy.stats import t

    rows = []
    for replication in range(REPLICATIONS):
        steady = run_steadily(question, length, replication)
        if steady.is_swamped:
            return np.full((len(names()), 3), math.nan)
        samples = steady.samples
        rows.append([_statistics(*samples.of(latency)) for latency in LATENCIES])
    values = np.array(rows).reshape(REPLICATIONS, -1)
    mean = values.mean(axis=0)
    half = t.ppf(0.5 + confidence / 2, REPLICATIONS - 1) * values.std(axis=0, ddof=1)
    half /= math.sqrt(REPLICATIONS)
    return np.stack([mean, mean - half, mean + half], axis=1)


def _statistics(values: NDArray[np.float64], weight: NDArray[np.float64]) -> list[float]:
    marks = [each for each in STATISTICS.values() if each is not None]
    mean = float(np.average(values, weights=weight)) if values.size else math.nan
    return [mean, *weighted_percentile(values, weight, marks).tolist()]


def _fluid_at(question: Question, predictor: Predictor | None) -> NDArray[np.float64]:
    """Return every statistic that the fluid model predicts, and its interval, shape (S, 3)."""
    out = np.full((len(names()), 3), math.nan)
    try:
        if load_of(question) >= NEARLY_FULL:
            return out
        found = prediction(question, predictor)
    except FluidServeError:
        return out
    marks = [(latency, mark) for latency in LATENCIES for mark in STATISTICS.values()]
    for row, name, (latency, mark) in zip(out, names(), marks, strict=True):
        of, off = found.latencies.get(latency), found.error.errors.get(name)
        if of is not None:
            row[0] = of.mean if mark is None else of.percentiles[mark]
        if off is not None:
            row[1:] = off.around(row[0])
    return out
