"""Fluid against discrete: the same instance and workload, the same outputs, one score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from serving import ConfigError, ServingMetrics, SolveError, check_defined, reading_of
from serving.arguments import checked
from studies.choice import WITHIN
from studies.comparison.ensemble import run_ensemble
from studies.comparison.expectation import words_of
from studies.comparison.gathering import Ensemble
from studies.comparison.main_line import MainLine, main_line
from studies.comparison.phase import phase_warning
from studies.comparison.scores import MethodResult, noise_floor, solved
from studies.comparison.settings import BAND, Replications, Told
from studies.question import Question


@dataclass(frozen=True, eq=False)
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
    within
        How far off the main line was to be, relative.
    """

    question: Question
    discrete: Ensemble
    methods: Mapping[str, MethodResult]
    noise_floor: Mapping[str, float]
    failed: Mapping[str, str]
    within: float = WITHIN

    @property
    def main(self) -> MainLine | None:
        """The method that is shown first, by what the methods expect of their errors."""
        if not self.methods:
            return None
        return main_line({name: each.error for name, each in self.methods.items()}, self.within)

    @property
    def single_run_noise(self) -> float:
        """RMS spread of one replication's ``in_system``, normalised as ``nrmse``."""
        return self.noise_floor["in_system"] * math.sqrt(self.discrete.replications)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What to know before reading the scores, one line each."""
        lost = phase_warning(self.discrete, self.methods)
        return () if lost is None else (lost,)

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
            "main": None if (main := self.main) is None else asdict(main),
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
                    "confidence": each.error.confidence,
                    "error": each.error.to_json(),
                    "found": {key: of.to_json() for key, of in each.found.items()},
                    "found_words": words_of(each.found),
                }
                for name, each in self.methods.items()
            },
            "failed": dict(self.failed),
            "warnings": list(self.warnings),
        }


@checked()
def compare(
    question: Question,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    replications: Replications | None = None,
    *,
    metrics: bool = True,
    goodput: Mapping[str, float] | None = None,
    approximate: bool = False,
    within: float = WITHIN,
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
        Names of fluid methods, see :data:`ode.METHODS`; as a mapping, with the options of each. By
        default those of :func:`ode.methods_for`, and the one that tells the latencies.
    replications
        How many, and what is kept of them; 32 by default.
    metrics
        Compare latencies too: replications and solutions go on after the horizon until every
        request is done.
    goodput
        Thresholds by latency name [time].
    approximate
        Solve policies that the fluid model does not describe, labelled as approximate.
    within
        How far off mean and p99 of TTFT and E2EL of the main line may be, relative, with the chance
        of the intervals: it is the cheapest method that expects as much, else the nearest to it.
    told
        Called with the replications done and to do, and with each method before it is solved.

    Raises
    ------
    ConfigError, WorkloadError, UnsupportedError, SolveError
        See :func:`run_ensemble` and :func:`ode.solve`; or if a threshold is on a latency that no
        request has.
    """
    from ode import method_named

    if not 0 < within < math.inf:
        raise ConfigError("within", within, "a finite number > 0")
    if methods is None:
        methods = _usual_methods(question)
    given = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    # before minutes of replications, not after
    chosen = {method_named(name).name: options for name, options in given.items()}
    reading_of(question.instance)
    check_defined(goodput or (), question.longest_decode)
    ensemble = run_ensemble(question, replications, drain=metrics, goodput=goodput, told=told)
    results: dict[str, MethodResult] = {}
    failed: dict[str, str] = {}
    for number, (name, options) in enumerate(chosen.items()):
        if told is not None:
            told(name, number, len(chosen))
        options = {"approximate": approximate, **options}
        try:
            results[name] = solved(name, ensemble, options, metrics=metrics, goodput=goodput)
        except SolveError as error:  # the other methods and the runs are worth having
            failed[name] = str(error)
    if failed and not results:
        raise SolveError(next(iter(failed)), "no_method", "; ".join(failed.values()))
    floor = noise_floor(ensemble)
    return Comparison(ensemble.question, ensemble, results, floor, failed, within)


def _usual_methods(question: Question) -> tuple[str, ...]:
    """Return the methods that are asked where none is named: the limit, and one node at its size.

    A server that the model of one node does not know is asked of the limit alone.
    """
    from ode import method_of_latencies, methods_for

    instance = question.instance
    of_one = method_of_latencies(question.mix, instance)
    return tuple(dict.fromkeys((*methods_for(instance), of_one)))


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def _metrics_json(metrics: ServingMetrics | None, unit: str) -> dict[str, Any] | None:
    return None if metrics is None else metrics.to_json(unit)
