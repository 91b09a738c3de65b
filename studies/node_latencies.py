"""Latencies of one node for its analysis: those of the model, and of whoever is close enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ode import method_of_latencies, solve, stationary
from ode.error_model import ErrorReport
from serving import Distribution, RateProfile, SolveError
from studies.automatic import CHANGING, ENGINE, Answer, answer
from studies.question import Question
from workload import Constant


@dataclass(frozen=True, slots=True, eq=False)
class NodeLatencies:
    """Latencies, and where they come from.

    Parameters
    ----------
    latencies
        A distribution by latency; empty where there is none to be had.
    what
        What they are: of the equilibrium, or over which time.
    error
        How far they are expected to be from the engine's mean.
    labels
        Caveats.
    answer
        Who says them and why, where somebody was chosen.
    """

    latencies: Mapping[str, Distribution]
    what: str
    error: ErrorReport
    labels: tuple[str, ...] = ()
    answer: Answer | None = None


def of_the_model(
    question: Question, profile: RateProfile | None, approximate: bool, samples: int
) -> NodeLatencies:
    """Return what the model behind the sensitivities says.

    Parameters
    ----------
    question
        Who arrives and who serves.
    profile
        Expected arrivals from an empty start; None for the equilibrium.
    approximate
        Read policies that are not modelled as FCFS and LIFO.
    samples
        Latencies behind the percentiles of an equilibrium.
    """
    mix, instance, rate = question.mix, question.instance, question.mean_rate
    if profile is not None:
        method = method_of_latencies(mix, instance)
        flow = solve(profile, mix, instance, method=method, approximate=approximate)
        what = f"of all arrivals in [0, {profile.horizon:g}) from an empty start"
        return NodeLatencies(flow.metrics().latencies, what, flow.error, flow.labels)
    try:
        steady = stationary(
            mix, instance, rate, dispersion=question.dispersion, approximate=approximate,
            samples=samples,
        )  # fmt: skip
    except SolveError as problem:
        none = ErrorReport(reason="there are no latencies")
        label = f"no stationary latencies: {problem.reason}"
        return NodeLatencies({}, "none: give a horizon for latencies over time", none, (label,))
    changing = _at_mean_rate(question)
    error = ErrorReport(reason=CHANGING) if changing else steady.error
    return NodeLatencies(steady.latencies, "stationary", error, (*steady.labels, *changing))


def of_whoever_is_close(
    question: Question,
    model: NodeLatencies,
    over_time: bool,
    approximate: bool,
    within: float,
    budget: float,
) -> NodeLatencies:
    """Return latencies that are expected to be close enough.

    Parameters
    ----------
    question
        Who arrives and who serves.
    model
        What the model says: it answers for an equilibrium if it is close enough, and for one that
        the engine cannot be asked for.
    over_time, approximate
        See :func:`studies.analyze`.
    within, budget
        See :func:`studies.automatic.answer`.
    """
    if not over_time:
        if not model.latencies or question.is_file or _at_mean_rate(question):
            return replace(model, labels=())
        question = replace(question, num_requests=None, horizon=None)
    found = answer(question, within=within, budget=budget, approximate=approximate)
    if found.chosen == "stationary":  # with as many samples as the sensitivities need
        return replace(model, labels=found.warnings, answer=found)
    count = found.error.replications
    runs = f", mean of {count} run{'s' * (count != 1)} of the engine" if count is not None else ""
    by = f", by {found.chosen}" if found.chosen != ENGINE else runs
    return NodeLatencies(found.latencies, f"{model.what}{by}", found.error, found.warnings, found)


def _at_mean_rate(question: Question) -> tuple[str, ...]:
    """Return the caveat of an equilibrium where the arrival rate is not constant."""
    if question.is_file:
        what = "the arrivals of the file"
    elif not isinstance(question.stream.shape, Constant):
        what = f"the rate shape {question.stream.shape}"
    else:
        return ()
    return (
        f"approximate: these are latencies of the equilibrium at the mean rate of {what}; those "
        "over time follow its changes (--transient) and may be many times as long",
    )
