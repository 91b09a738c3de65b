"""Replay a measured run, and hold what the engine says against what clients measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving import Instance, UnsupportedError
from studies.validation.fluid import by_fluid
from studies.validation.one_node import by_one_node
from studies.validation.prediction import Prediction, measured
from studies.validation.replay import replay
from studies.validation.requests import Replayed
from studies.validation.scores import (
    Score,
    in_system,
    latency_scores,
    series_scores,
    total_scores,
)

TIMES = 400
"""Times of the curves of a run whose server said nothing over time."""

Predictor = Callable[[Replayed, Instance, int, NDArray[np.float64]], Prediction]
"""A model that predicts a run: its requests, the server, replicas and times of the series."""


def by_engine(
    requests: Replayed, instance: Instance, replicas: int, grid: NDArray[np.float64]
) -> Prediction:
    """Return what the engine of the instance says."""
    return replay(requests, instance, replicas, grid)[0]


PREDICTORS: Mapping[str, Predictor] = {
    "engine": by_engine, "fluid": by_fluid, "one_node": by_one_node,
}  # fmt: skip
"""Every model that can be held against a run, by name: another one is another entry."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How far one model is from a run."""

    latencies: Mapping[str, Mapping[str, Score]]
    totals: Mapping[str, Score]
    series: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """A measured run beside what models say of it.

    Parameters
    ----------
    requests
        The run as it was replayed.
    measured
        What was measured, of the requests that are judged.
    predicted, scores
        By model of :data:`PREDICTORS`.
    judged
        Which requests are judged, shape (R,).
    """

    requests: Replayed
    measured: Prediction
    predicted: Mapping[str, Prediction]
    scores: Mapping[str, Scores]
    judged: NDArray[np.bool_]


def validate(
    requests: Replayed,
    instance: Instance,
    *,
    replicas: int = 1,
    front_end: float = 0.0,
    judged_from: float = 0.0,
    models: tuple[str, ...] = ("engine",),
) -> Validation:
    """Return what models say of a run beside what was measured.

    Parameters
    ----------
    requests
        The run.
    instance
        The server, in seconds.
    replicas
        Engines among which the requests are dealt.
    front_end : [s]
        Time of the front end before every first token, which no model knows.
    judged_from : [s]
        Requests that arrive before are replayed but not judged.
    models
        Names of :data:`PREDICTORS`.
    """
    run = requests.run
    judged = run.arrival >= judged_from
    whole = measured(run)
    grid = whole.grid
    if not grid.size:
        grid = np.linspace(0.0, float(np.nanmax(run.finish)), TIMES)
    whole = _with_in_system(replace(whole, grid=grid))
    truth = _judged(whole, judged, judged_from)
    predicted, scores = {}, {}
    for name in models:
        found = PREDICTORS[name](requests, instance, replicas, grid).delayed(front_end)
        found = _with_in_system(found)
        predicted[name] = found
        of = _judged(found, judged, judged_from)
        if judged_from > 0:  # gaps are not told apart by request
            of = replace(of, gaps=np.empty(0), gap_weight=np.empty(0))
        scores[name] = Scores(
            latency_scores(truth, of), total_scores(truth, of), series_scores(truth, of)
        )
    return Validation(requests, whole, predicted, scores, judged)


def _with_in_system(of: Prediction) -> Prediction:
    return replace(of, series={**of.series, "in_system": in_system(of, of.grid)})


def _judged(of: Prediction, rows: NDArray[np.bool_], start: float) -> Prediction:
    """Return the judged requests, and the series from a time on."""
    if of.totals is not None:
        if start > 0:
            raise UnsupportedError(
                "models other than the engine have no single requests to judge from a time on"
            )
        return of
    later = of.grid >= start
    series = {name: values[later] for name, values in of.series.items()}
    return replace(of.of(rows), grid=of.grid[later], series=series)
