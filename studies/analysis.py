"""Everything the theory says of one node at one arrival rate, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fluid import (
    Certificate,
    Equilibrium,
    Flip,
    Saturation,
    capacity,
    certificate,
    equilibrium,
    fastest_batch,
    parameter_units,
    parameter_values,
    saturation,
    saturation_sensitivity,
    with_parameter,
)
from ode import (
    TimeToFull,
    collapsed_throughput,
    method_of_latencies,
    policy_labels,
    solve,
    stationary,
)
from ode.error_model import ErrorReport
from ode.error_model.capacity import CapacityError, capacity_error
from ode.regimes import RegimeReport, regime_report
from serving import (
    ConfigError,
    Distribution,
    Instance,
    RateProfile,
    RequestMix,
    SolveError,
    UnsupportedError,
)
from serving.arguments import checked
from studies.automatic import BUDGET, WITHIN, Answer, check_limits
from studies.closed_form import ClosedForm, closed_form
from studies.dangers import dangers, when_full
from studies.limitations import caveats
from studies.node_latencies import of_the_model, of_whoever_is_close
from studies.question import Question

SAMPLES = 8192
"""Latencies behind each percentile that is differentiated."""

WORTH_SAYING = 0.005
"""Share by which smaller batches complete more than full ones from which it is said."""

STEP = 0.02
"""Relative change of a parameter in a central difference."""

PERCENTILES = (50, 95, 99)
LATENCIES = ("ttft", "e2el")
AUTO = "auto"
METHODS = (AUTO, "model")
"""Whose latencies an analysis shows."""

BEND, NOTABLE = 2.0, 0.05
"""Ratio of the slopes of the batch time to both sides of the mean, and part of it that two standard
deviations of the requests must change, from which a bend is said."""

NEAR = 0.9
"""Load from which the nearness of saturation is said."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is known of a node without simulating it.

    Parameters
    ----------
    arrival_rate, lambda_max : [requests/time]
        Mean arrival rate, and capacity lambda_M.
    load
        Their ratio.
    capacity_error
        How far off the capacity is expected to be.
    regime
        See :func:`ode.regime`.
    regime_report
        Its edges, and how sure it is.
    equilibrium
        Closed forms of the healthy node; None where it has none (load or rho of 1 and more).
    certificate
        Of the memory-full equilibrium, whatever the load; None where no model certifies it.
    binds
        The limit that the instance meets first as the rate grows; None where the model does not
        tell.
    latencies
        A distribution by latency; empty where there is none to be had.
    latencies_are
        What they are: of the equilibrium, or over which time.
    sensitivity
        By statistic (``p99_ttft``), then by parameter: the derivative.
    elasticity
        Likewise: per cent by per cent.
    sensitivity_is
        How these were computed.
    flips
        Small changes of single parameters that turn the verdict ``load < 1``.
    warnings
        What to know before trusting any of it, one line each.
    units
        Unit of each parameter, in the singular.
    fills
        When chance fills the memory of a bistable node; None of others, and where no model tells.
    closed_form
        What moves capacity and equilibrium, for a model that tells what binds; else empty.
    error
        How far the latencies are expected to be from the engine's mean.
    answer
        Who says them and why; None where the model was asked for, or they are of an equilibrium
        that the engine cannot be asked for.
    """

    arrival_rate: float
    lambda_max: float
    load: float
    regime: str
    capacity_error: CapacityError
    regime_report: RegimeReport
    equilibrium: Equilibrium | None
    certificate: Certificate | None
    binds: str | None
    latencies: Mapping[str, Distribution]
    latencies_are: str
    sensitivity: Mapping[str, Mapping[str, float]]
    elasticity: Mapping[str, Mapping[str, float]]
    sensitivity_is: str
    flips: tuple[Flip, ...]
    warnings: tuple[str, ...]
    units: Mapping[str, str]
    fills: TimeToFull | None = None
    closed_form: ClosedForm = field(default_factory=ClosedForm)
    error: ErrorReport = field(default_factory=ErrorReport)
    answer: Answer | None = None


@checked()
def analyze(
    question: Question,
    *,
    over_time: bool = False,
    approximate: bool = False,
    method: str = AUTO,
    within: float = WITHIN,
    budget: float = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """Return the analysis of one node.

    Parameters
    ----------
    question
        Who arrives and who serves; the mean arrival rate is the question's.
    over_time
        Latencies of the question's arrivals, from an empty start. Otherwise they are those of the
        equilibrium, and there are none at a load of 1 or more.
    approximate
        Read policies that are not modelled as FCFS and LIFO.
    method
        Whose latencies: ``auto`` for those of whoever is expected to be close enough, see
        :func:`studies.automatic.answer`; ``model`` for those of the model behind the
        sensitivities, whatever it expects of its error.
    within, budget
        Of ``auto``: how far off latencies may be, and seconds that the engine may take.
    progress
        Called with the solves made for the sensitivities, and how many there will be.

    Raises
    ------
    UnsupportedError
        For an engine that no fluid model reads, or a policy that is not modelled.
    """
    if method not in METHODS:
        raise ConfigError("method", method, " | ".join(METHODS))
    check_limits(within, budget)
    mix, instance, arrival_rate = question.mix, question.instance, question.known_rate
    profile = question.profile if over_time else None
    labels = list(policy_labels(instance, approximate=approximate))
    full = capacity(mix, instance)
    best = fastest_batch(mix, instance)
    if best.throughput > (1 + WORTH_SAYING) * full:
        labels.append(_faster(best, full))
    try:
        healthy = equilibrium(mix, instance, arrival_rate)
    except SolveError as error:
        healthy = None
        labels.append(f"no healthy equilibrium: {error.reason}")
    labels += caveats(question)
    labels += _at_a_bend(healthy, instance)
    report = regime_report(mix, instance, arrival_rate)
    kind = report.name
    collapsed = fills = None
    if kind != "healthy" and arrival_rate < full:
        collapsed = collapsed_throughput(mix, instance).throughput
        fills = when_full(mix, instance, arrival_rate)
    verdict = _certified(mix, instance, labels)
    model = of_the_model(question, profile, approximate, SAMPLES)
    labels += model.labels
    statistics = _statistics(arrival_rate, question.dispersion, profile, approximate)
    derivative, elasticity = _central(
        mix, instance, arrival_rate, statistics, _figures(model.latencies), progress
    )
    told = model
    if method == AUTO:
        told = of_whoever_is_close(question, model, over_time, approximate, within, budget)
        labels += told.labels
    flips = tuple(saturation_sensitivity(mix, instance, arrival_rate))
    binds = getattr(saturation(mix, instance), "binds", None)
    moved = ClosedForm() if binds is None else closed_form(mix, instance, arrival_rate, healthy)
    return Analysis(
        arrival_rate=arrival_rate,
        lambda_max=full,
        load=arrival_rate / full,
        regime=kind,
        capacity_error=capacity_error(mix, instance),
        regime_report=report,
        equilibrium=healthy,
        certificate=verdict,
        binds=binds,
        latencies=told.latencies,
        latencies_are=told.what,
        sensitivity=derivative,
        elasticity=elasticity,
        sensitivity_is=f"central differences, {STEP:.0%} each way, the "
        f"{_solved_anew(mix, instance)} solved anew",
        flips=flips,
        warnings=tuple(
            dict.fromkeys([*labels, *dangers(kind, verdict, flips, arrival_rate, collapsed, fills)])
        ),
        units=parameter_units(instance),
        fills=fills,
        closed_form=moved,
        error=told.error,
        answer=told.answer,
    )


def _faster(best: Saturation, full: float) -> str:
    """Say that smaller batches complete more than the full ones of a queue."""
    more = f"complete {best.throughput / full - 1:.1%} more than the full ones of a queue"
    if hasattr(best, "binds"):  # a server
        return f"batches of {best.batch_size:.0f} requests {more}: lower max_num_seqs"
    return f"batches of {best.batch_tokens:.0f} tokens {more}: give B"


def _certified(mix: RequestMix, instance: Instance, labels: list[str]) -> Certificate | None:
    """Return the certificate of the full instance; where none is to be had, the labels say so."""
    try:
        return certificate(mix, instance)
    except UnsupportedError as error:
        labels.append(f"no certificate of stability once the memory is full: {error}")
        return None


def _solved_anew(mix: RequestMix, instance: Instance) -> str:
    """Return what central differences solve."""
    is_work = method_of_latencies(mix, instance) == "node_work"
    return "node-work process" if is_work else f"model of {instance.engine}"


def _at_a_bend(healthy: Equilibrium | None, instance: Instance) -> tuple[str, ...]:
    """Return the caveat of second moments where the time of a batch bends within their spread."""
    law = instance.batch_time
    if healthy is None or law.is_affine or not hasattr(healthy, "moments"):
        return ()
    spread = 2.0 * math.sqrt(max(healthy.moments.var_running, 0.0))
    fewer, usual, more = (
        float(law.duration(healthy.batch_tokens, max(healthy.running + by, 0.0)))
        for by in (-spread, 0.0, spread)
    )
    steps = sorted((usual - fewer, more - usual))
    if steps[1] <= BEND * steps[0] or steps[1] <= NOTABLE * usual:
        return ()
    return (
        f"approximate: the time of a batch bends where {healthy.running:.3g} requests run; the "
        "second moments of the equilibrium read it as a line, and the variance of the batch time "
        "comes out too small",
    )


def _statistics(
    rate: float, dispersion: float, profile: RateProfile | None, approximate: bool
) -> Callable[[RequestMix, Instance, float], dict[str, float]]:
    """Return a function of mix, instance and rate that yields every statistic; empty if none."""

    def evaluate(mix: RequestMix, instance: Instance, changed: float) -> dict[str, float]:
        try:
            if profile is None:
                found = stationary(
                    mix,
                    instance,
                    changed,
                    dispersion=dispersion,
                    approximate=approximate,
                    samples=SAMPLES,
                ).latencies
            else:
                scaled = profile.scaled(changed / rate)
                found = (
                    solve(
                        scaled,
                        mix,
                        instance,
                        method=method_of_latencies(mix, instance),
                        approximate=approximate,
                    )
                    .metrics()
                    .latencies
                )
        except SolveError:
            return {}
        return _figures(found)

    return evaluate


def _figures(latencies: Mapping[str, Distribution]) -> dict[str, float]:
    """Return every statistic of the latencies; empty where there are none."""
    out = {}
    for name in LATENCIES if latencies else ():
        out[f"mean_{name}"] = latencies[name].mean
        out |= {f"p{q}_{name}": latencies[name].percentiles[q] for q in PERCENTILES}
    return out


def _central(
    mix: RequestMix,
    instance: Instance,
    rate: float,
    evaluate: Callable[[RequestMix, Instance, float], dict[str, float]],
    here: Mapping[str, float],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return derivatives and elasticities of every statistic by every parameter that is not 0.

    ``here`` is what ``evaluate`` gives for the parameters as they are.
    """
    derivative: dict[str, dict[str, float]] = {name: {} for name in here}
    elasticity: dict[str, dict[str, float]] = {name: {} for name in here}
    values = parameter_values(mix, instance, rate)
    varied = {name: value for name, value in values.items() if here and 0 < value < math.inf}
    for number, (parameter, value) in enumerate(varied.items()):
        ends = []
        for side, sign in enumerate((-1, 1)):
            if progress is not None:
                progress(2 * number + side, 2 * len(varied))
            new = with_parameter(mix, instance, rate, parameter, value * (1 + sign * STEP))
            ends.append((new.value, evaluate(new.mix, new.instance, new.arrival_rate)))
        if not (ends[0][1] and ends[1][1]) or ends[0][0] == ends[1][0]:
            continue
        (low, before), (high, after) = ends
        for name, value_here in here.items():
            slope = (after[name] - before[name]) / (high - low)
            derivative[name][parameter] = slope
            elasticity[name][parameter] = slope * value / value_here
    if progress is not None and varied:
        progress(2 * len(varied), 2 * len(varied))
    return derivative, elasticity
