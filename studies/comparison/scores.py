"""A fluid method on the question of an ensemble, and how far it is from the replications."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ode.error_model import ErrorReport
from serving import NRMSE_OUTPUTS, ServingMetrics, Trajectory
from studies.comparison.expectation import Found, held_against
from studies.comparison.gathering import Ensemble, over_time
from studies.comparison.noise import IN_SYSTEM, OF_LATENCIES, value_of
from studies.timing import WarmTurns

if TYPE_CHECKING:
    from ode import Solution


@dataclass(frozen=True, slots=True, eq=False)
class MethodResult:
    """One fluid method on the workload of an ensemble.

    Parameters
    ----------
    solution
        What the method returned.
    sampled
        Its outputs on the ensemble's grid.
    nrmse
        RMS over the grid of fluid minus replication mean, by output; over the time-mean of
        ``in_system``, for ``completed`` over its final value.
    seconds
        A warm solve, trajectories only.
    metrics
        The same metrics as the discrete engine's; None where they were not asked for.
    error
        How far off the method expects to be.
    found
        How far off it is, by metric, and whether that was expected.
    """

    solution: Solution
    sampled: Trajectory
    nrmse: Mapping[str, float]
    seconds: float
    metrics: ServingMetrics | None
    error: ErrorReport
    found: Mapping[str, Found] = field(default_factory=dict)


def solved(
    method: str,
    ensemble: Ensemble,
    options: Mapping[str, Any],
    *,
    metrics: bool,
    goodput: Mapping[str, float] | None,
) -> MethodResult:
    """Return the result of a fluid method on the question of an ensemble.

    Parameters
    ----------
    method, options
        Of :func:`ode.solve`.
    ensemble
        Replications of the same question.
    metrics
        Go on after the horizon until every request is done, for the latencies.
    goodput
        Thresholds by latency name [time].

    Raises
    ------
    UnsupportedError, SolveError
        See :func:`ode.solve`.
    """
    from ode import solve

    question, turns = ensemble.question, WarmTurns(most=20)
    for _ in turns:
        solution = solve(
            question.profile,
            question.mix,
            question.instance,
            method=method,
            horizon=ensemble.horizon,
            drain=metrics,
            **options,
        )
    names = [name for name in ensemble.mean.outputs if name in solution.trajectory.outputs]
    sampled = Trajectory(ensemble.grid, {name: solution(name, ensemble.grid) for name in names})
    told = solution.metrics(goodput) if metrics else None
    error = solution.error if metrics else ErrorReport(reason="no latencies were asked for")
    return MethodResult(
        solution=solution,
        sampled=sampled,
        nrmse=nrmse(sampled, ensemble.mean),
        seconds=turns.seconds,
        metrics=told,
        error=error,
        found=held_against(
            _values(told, sampled), ensemble.values, ensemble.noise, error.errors,
            ensemble.replications,
        ),
    )  # fmt: skip


def _values(metrics: ServingMetrics | None, sampled: Trajectory) -> dict[str, float]:
    """Return the metrics whose errors are known, by name [time, or requests]."""
    out = {}
    if metrics is not None:
        out = {name: value_of(name, metrics) for name in OF_LATENCIES}
    if "in_system" in sampled.outputs:
        out[IN_SYSTEM] = over_time(sampled.outputs["in_system"])
    return out


def noise_floor(ensemble: Ensemble) -> dict[str, float]:
    """Return what even the exact mean would score: the standard errors, in the units of a score."""
    return {
        name: _rms(ensemble.standard_error(name)) / scale(ensemble.mean, name)
        for name in _scored(ensemble.mean)
    }


def scale(mean: Trajectory, name: str) -> float:
    """Return what errors in an output are divided by: see :class:`MethodResult`; NaN if nothing."""
    values = mean.outputs[name][-1:] if name == "completed" else mean.outputs["in_system"]
    return float(values.mean()) or math.nan


def nrmse(fluid: Trajectory, mean: Trajectory) -> dict[str, float]:
    """Return the score of a fluid trajectory against a replication mean on the same grid."""
    return {
        name: _rms(fluid.outputs[name] - mean.outputs[name]) / scale(mean, name)
        for name in _scored(mean)
        if name in fluid.outputs
    }


def _scored(mean: Trajectory) -> tuple[str, ...]:
    return tuple(name for name in NRMSE_OUTPUTS if name in mean.outputs)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
