"""Fluid against discrete: the same instance and workload, the same outputs, one score."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import NRMSE_OUTPUTS, ServingMetrics, SolveError, Trajectory, reading_of
from studies.comparison.ensemble import BAND, Ensemble, Replications, Told, run_ensemble
from studies.question import Question

if TYPE_CHECKING:
    from ode import Solution

DEFAULT_METHODS = ("lagrangian", "eulerian_jax")
"""Methods that are compared where none is named."""


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
    """

    solution: Solution
    sampled: Trajectory
    nrmse: Mapping[str, float]
    seconds: float
    metrics: ServingMetrics | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Replications of the discrete engine beside fluid solutions.

    Parameters
    ----------
    question
        What was asked: its expected arrivals and mix are what the fluid methods solved.
    discrete
        Replications; ``discrete.run`` is the first of them, whole.
    methods
        Result by method name.
    noise_floor
        RMS over the grid of the standard error of the replication mean, normalised as ``nrmse``:
        what even the exact mean would score. NaN for one replication.
    failed
        Why, by the name of a method that could not solve this.
    """

    question: Question
    discrete: Ensemble
    methods: Mapping[str, MethodResult]
    noise_floor: Mapping[str, float]
    failed: Mapping[str, str]

    @property
    def single_run_noise(self) -> float:
        """RMS spread of one replication's ``in_system``, normalised as ``nrmse``."""
        return self.noise_floor["in_system"] * math.sqrt(self.discrete.replications)

    def to_json(self) -> dict[str, Any]:
        """Return the scores, times and metrics, all finite or null."""
        instance = self.question.instance
        unit = instance.time_unit
        ensemble = self.discrete
        floor = {name: finite_or_none(value) for name, value in self.noise_floor.items()}
        return {
            "horizon": ensemble.horizon,
            "horizon_is": ensemble.horizon_is,
            "grid_points": int(ensemble.grid.size),
            "discrete": {
                "engine": instance.engine,
                "replications": ensemble.replications,
                "seconds": ensemble.seconds,
                "noise_floor": floor,
                "band_percentiles": list(BAND),
                "metrics_are": "latencies pooled over the requests of all replications, "
                "the rest averaged over replications",
                "metrics": _metrics_json(ensemble.metrics, unit),
            },
            "methods": {
                name: {
                    "nrmse": {key: finite_or_none(value) for key, value in each.nrmse.items()},
                    "noise_floor": floor,
                    "seconds": each.seconds,
                    "speedup": finite_or_none(ensemble.seconds / each.seconds),
                    "status": each.solution.status,
                    "message": each.solution.message,
                    "labels": list(each.solution.warnings),
                    "stats": dict(each.solution.stats),
                    "metrics": _metrics_json(each.metrics, unit),
                }
                for name, each in self.methods.items()
            },
            "failed": dict(self.failed),
        }


def compare(
    question: Question,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] = DEFAULT_METHODS,
    replications: Replications | None = None,
    *,
    metrics: bool = True,
    goodput: Mapping[str, float] | None = None,
    approximate: bool = False,
    told: Told | None = None,
) -> Comparison:
    """Run replications of the engine and each fluid method on the same question.

    Parameters
    ----------
    question
        Of a workload, every replication is a draw of its own and the fluid methods take its exact
        mix and expected arrivals. Of a file, arrival times are fixed, (p, D) is permuted in every
        replication but the first, and the fluid methods take the requests' own cumulative curve
        and empirical mix.
    methods
        Names of fluid methods, see :data:`ode.METHODS`; as a mapping, with the options of each.
    replications
        How many, and what is kept of them; 32 by default.
    metrics
        Compare latencies too: replications and solutions go on after the horizon until every
        request is done.
    goodput
        Thresholds by latency name [time].
    approximate
        Solve policies that the fluid model does not describe, labelled as approximate.
    told
        Called with the replications done and to do, and with each method before it is solved.

    Raises
    ------
    ConfigError, WorkloadError, UnsupportedError, SolveError
        See :func:`run_ensemble` and :func:`ode.solve`.
    """
    from ode import method_named

    given = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    # before minutes of replications, not after
    chosen = {method_named(name).name: options for name, options in given.items()}
    reading_of(question.instance)
    ensemble = run_ensemble(question, replications, drain=metrics, goodput=goodput, told=told)
    question = question.until(ensemble.horizon)
    results: dict[str, MethodResult] = {}
    failed: dict[str, str] = {}
    for number, (name, options) in enumerate(chosen.items()):
        if told is not None:
            told(name, number, len(chosen))
        try:
            results[name] = _solved(
                name, question, ensemble, metrics, goodput, {"approximate": approximate, **options}
            )
        except SolveError as error:  # the other methods and the runs are worth having
            failed[name] = str(error)
    if failed and not results:
        raise SolveError(next(iter(failed)), "no_method", "; ".join(failed.values()))
    floor = {
        name: _rms(ensemble.standard_error(name)) / scale(ensemble.mean, name)
        for name in _scored(ensemble.mean)
    }
    return Comparison(question, ensemble, results, floor, failed)


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


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def _scored(mean: Trajectory) -> tuple[str, ...]:
    return tuple(name for name in NRMSE_OUTPUTS if name in mean.outputs)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _solved(
    method: str,
    question: Question,
    ensemble: Ensemble,
    metrics: bool,
    goodput: Mapping[str, float] | None,
    options: Mapping[str, Any],
) -> MethodResult:
    from ode import solve

    def job() -> Solution:
        return solve(
            question.profile,
            question.mix,
            question.instance,
            method=method,
            horizon=ensemble.horizon,
            drain=metrics,
            **options,
        )

    job()  # compiles
    best, spent = math.inf, 0.0
    for _ in range(20):
        began = time.perf_counter()
        solution = job()
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
        if spent > 0.5:
            break
    names = [name for name in ensemble.mean.outputs if name in solution.trajectory.outputs]
    sampled = Trajectory(ensemble.grid, {name: solution(name, ensemble.grid) for name in names})
    return MethodResult(
        solution=solution,
        sampled=sampled,
        nrmse=nrmse(sampled, ensemble.mean),
        seconds=best,
        metrics=solution.metrics(goodput) if metrics else None,
    )


def _metrics_json(metrics: ServingMetrics | None, unit: str) -> dict[str, Any] | None:
    return None if metrics is None else metrics.to_json(unit)
