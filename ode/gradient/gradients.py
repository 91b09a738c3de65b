"""Derivatives of what a node achieves by what it is: through the Eulerian solve, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fluid import PARAMETER_UNITS, parameter_values
from ode._caveats import policy_labels, validity_labels
from ode._initial_state import InitialState
from ode.gradient.names import METRICS, OF_ALL_ARRIVALS, PARAMETERS
from serving import DecodeNode, FluidServeError, RateProfile, RequestMix, UnsupportedError, answers

LONGEST_STEP = {"superbee": 0.46, "upwind": 1.0}
"""Longest step [batches] at which the derivatives are stable, 2.78 / 6 and what a solve allows."""

UNDER_EVICTION = (
    "approximate: under eviction the stages blur who is evicted; derivatives by d_swap and M_total "
    "follow the Eulerian evictions"
)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Metrics of a solve and their derivatives.

    ``gradients["e2el"]["M_total"]`` is d(mean end-to-end latency) / d(M_total).

    Parameters
    ----------
    values
        Metric by name [:data:`METRICS`].
    parameters
        Parameter by name, where the derivatives are taken; an unlimited B is infinite.
    gradients
        By metric, then by parameter.
    units
        Of each derivative, by metric, then by parameter.
    elasticities
        d log(metric) / d log(parameter): per cent by per cent. NaN where the metric is 0.
    method
        How they were computed.
    steps
        Time steps taken.
    labels
        Caveats, as of :class:`ode.Solution`.
    """

    values: Mapping[str, float]
    parameters: Mapping[str, float]
    gradients: Mapping[str, Mapping[str, float]]
    units: Mapping[str, Mapping[str, str]]
    elasticities: Mapping[str, Mapping[str, float]]
    method: str
    steps: int
    labels: tuple[str, ...]


@answers("decode_node")
def gradients(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    *,
    metrics: tuple[str, ...] | None = None,
    parameters: tuple[str, ...] | None = None,
    horizon: float | None = None,
    drain: bool = True,
    classes: int | None = None,
    transport: str = "superbee",
    step: float = 0.4,
    max_steps: int = 300_000,
    approximate: bool = False,
) -> Gradients:
    """Differentiate a solve from an empty start (``method="eulerian_jax"``) by its parameters.

    The right-hand side is the one that :func:`ode.solve` integrates, compiled from the symbols;
    JAX differentiates it in forward mode along the steps of the solve.

    ``in_system``, ``waiting``, ``running`` are means over [0, horizon], ``batch_duration`` the
    mean over the batches in it, ``throughput`` completions per time in it. ``e2el``, ``ttft`` and
    ``queue_delay`` are means over all arrivals by Little's law: the time integrals of those in the
    system, before their first token, never admitted, over the arrivals. ``peak_memory`` is the
    largest of the whole run.

    The fluid is piecewise smooth in its parameters. At a kink -- memory or budget about to bind,
    ``B = M_total``, a threshold of 1 -- derivatives to either side differ and one is returned. A B
    that is unlimited, or of ``M_total`` and more, moves with ``M_total``; its own derivative is 0.
    The derivative by a threshold of 1 is that of lowering it.

    Parameters
    ----------
    profile, mix, instance
        As of :func:`ode.solve`.
    metrics
        Some of :data:`METRICS`; by default all that are defined.
    parameters
        Some of :data:`PARAMETERS`; by default all, with ``transport="superbee"`` all but
        ``mean_decode``: a length that no request had appears at once, where the limiter has no
        derivative. ``transport="upwind"`` has one, of a solve that blurs cohorts more.
    horizon : [time]
        End of arrivals, ``profile.horizon`` by default.
    drain
        Go on without arrivals until the system is empty; the latencies need it.
    classes, transport, max_steps
        As of ``method="eulerian_jax"``.
    step
        Length of a step in batch times. Shorter than a solve needs: the slope of the limited flux
        has rates of up to 6 per batch (2 upwind), and Runge-Kutta is stable up to 2.78.
    approximate
        As of :func:`ode.solve`.

    Returns
    -------
    Gradients
        Derivatives of every metric by every parameter.

    Raises
    ------
    UnsupportedError
        For an unknown metric or parameter, a latency without ``drain``, or a policy that is not
        modelled.
    FluidServeError
        If ``horizon`` is not a finite time > 0, or nobody arrives.
    SolveError
        If the solve fails.
    """
    if metrics is None:
        metrics = tuple(name for name in METRICS if drain or name not in OF_ALL_ARRIVALS)
    limited = transport != "upwind"
    if parameters is None:
        parameters = tuple(name for name in PARAMETERS if not (limited and name == "mean_decode"))
    _check(metrics, METRICS, "metric")
    _check(parameters, PARAMETERS, "parameter")
    if limited and "mean_decode" in parameters:
        raise UnsupportedError('the derivative by mean_decode needs transport="upwind"')
    if not drain and set(metrics) & set(OF_ALL_ARRIVALS):
        raise UnsupportedError("mean latencies of all arrivals need drain=True")
    labels = policy_labels(instance, approximate=approximate) + validity_labels(mix, instance)
    longest = LONGEST_STEP.get(transport, 1.0)
    if not 0 < step <= longest:
        raise UnsupportedError(f"step: {step} is not allowed; allowed: 0 < step <= {longest}")
    horizon = profile.horizon if horizon is None else float(horizon)
    if not (math.isfinite(horizon) and horizon > 0):
        raise FluidServeError(f"horizon: {horizon} is not allowed; allowed: a finite time > 0")
    arrivals = float(profile.count(horizon))
    if arrivals <= 0:
        raise FluidServeError("gradients: nobody arrives; allowed: arrivals in [0, horizon]")

    at = parameter_values(mix, instance, arrivals / horizon)
    from ode.eulerian.problem import eulerian_problem
    from ode.gradient.metrics import differentiated

    problem = eulerian_problem(
        profile, mix, instance, InitialState(), horizon, drain, classes, transport
    )
    values, slopes, steps, evicting = differentiated(problem, at, parameters, step, max_steps)
    unit = "time" if instance.time_unit == "none" else instance.time_unit
    return Gradients(
        values={name: float(values[name]) for name in metrics},
        parameters={name: at[name] for name in parameters},
        gradients=_table(metrics, parameters, lambda y, k, _: float(slopes[y][k])),
        units=_table(
            metrics,
            parameters,
            lambda y, _, x: _per(METRICS[y], PARAMETER_UNITS[x]).replace("time", unit),
        ),
        elasticities=_table(
            metrics, parameters, lambda y, k, x: _elasticity(slopes[y][k], at[x], values[y])
        ),
        method=f"jax, forward mode through RK4 of the Eulerian equations ({transport}), "
        f"steps of {step:g} batch times",
        steps=steps,
        labels=(*labels, UNDER_EVICTION) if evicting else labels,
    )


def _table(
    metrics: tuple[str, ...], parameters: tuple[str, ...], entry: Callable[[str, int, str], Any]
) -> dict[str, dict[str, Any]]:
    return {y: {x: entry(y, k, x) for k, x in enumerate(parameters)} for y in metrics}


def _per(metric: str, parameter: str) -> str:
    """Return the unit of a derivative: ``requests per token``."""
    if not parameter:
        return metric
    return f"{metric} per ({parameter})" if "/" in parameter else f"{metric} per {parameter}"


def _elasticity(slope: float, parameter: float, metric: float) -> float:
    if slope == 0 or parameter == 0:
        return 0.0
    return float(slope * parameter / metric) if metric != 0 else math.nan


def _check(names: tuple[str, ...], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise UnsupportedError(f"there is no {what} {name!r}; there are: {', '.join(known)}")
