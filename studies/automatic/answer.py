"""The answer to a question, and how far off whoever gives it is expected to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ode import InitialState, Solution, Stationary, policy_labels, solve, stationary
from ode.error_model.report import ErrorReport, before_the_answer
from serving import (
    ConfigError,
    Distribution,
    FluidServeError,
    ServingMetrics,
    Trajectory,
    UnsupportedError,
)
from serving.arguments import checked
from studies.automatic.asking import Asking, Tried
from studies.automatic.by_engine import ByEngine, over_time
from studies.automatic.steady import steady
from studies.choice import WITHIN
from studies.question import Question
from workload import Constant

BUDGET = 10.0
"""Processor time that the engine may take [seconds]."""

CANDIDATES, STEADY = ("lagrangian", "node_work"), ("stationary",)
"""Methods over time and in a steady state, the cheapest first."""

CHANGING = "errors of an equilibrium at the mean of a changing rate were not measured"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """An answer, and why it comes from whom it comes.

    Parameters
    ----------
    chosen
        Of :data:`CANDIDATES` or :data:`STEADY`, or :data:`studies.automatic.ENGINE`.
    error
        What the answer expects of its own error.
    tried
        Everybody who might have answered, in order.
    within
        How far off it was to be.
    of
        What whoever was chosen said.
    """

    chosen: str
    error: ErrorReport
    tried: tuple[Tried, ...]
    within: float
    of: Solution | Stationary | ByEngine

    @property
    def latencies(self) -> Mapping[str, Distribution]:
        """A distribution by latency."""
        return self.of.metrics().latencies if isinstance(self.of, Solution) else self.of.latencies

    @property
    def trajectory(self) -> Trajectory:
        """Every output over time; of the engine, the mean over its runs.

        Raises
        ------
        UnsupportedError
            For a steady state.
        """
        path = getattr(self.of, "trajectory", None)
        if path is None:
            raise UnsupportedError("a steady state does not change over time")
        return path

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics; of the engine, over all requests of all runs.

        Parameters
        ----------
        goodput
            Thresholds by latency name [time].

        Raises
        ------
        UnsupportedError
            For a steady state, which has :attr:`latencies` alone.
        """
        if isinstance(self.of, Solution | ByEngine):
            return self.of.metrics(goodput)
        raise UnsupportedError("a steady state has latencies, and no totals of a run")

    @property
    def words(self) -> str:
        """Who answers, and why not the others, in a line."""
        why = "; ".join(
            f"{each.method}: {each.error.words}"
            for each in self.tried
            if each.method != self.chosen
        )
        runs = self.error.replications
        who = self.chosen if runs is None else f"{runs} run{'s' * (runs != 1)} of the engine"
        return f"{who}{f' ({why})' if why else ''}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the answer: that nobody was close enough, and labels of a method."""
        own = tuple(getattr(self.of, "warnings", ()) or getattr(self.of, "labels", ()))
        if self.error.bound <= self.within or not math.isfinite(self.error.bound):
            return own
        far = (
            f"nobody is expected to be within {self.within:.0%}: {self.chosen} answers, and its "
            f"mean and p99 may be {self.error.bound:.0%} off; a larger budget lets the engine run "
            "longer"
        )
        return (*own, far)


def check_limits(within: float, budget: float) -> None:
    """Refuse what no answer could be within, before anything is worked out.

    Raises
    ------
    ConfigError
        If one of them is not a finite number above 0.
    """
    for name, value in (("within", within), ("budget", budget)):
        if not 0 < value < math.inf:
            raise ConfigError(name, value, "a finite number > 0")


@checked()
def answer(
    question: Question,
    *,
    within: float = WITHIN,
    budget: float = BUDGET,
    initial: InitialState | None = None,
    drain: bool = True,
    approximate: bool = False,
) -> Answer:
    """Return the answer of the cheapest method that is good enough, else of the engine.

    Of a question that ends, over all arrivals from an empty start; of a stream without an end, in
    its steady state.

    Parameters
    ----------
    question
        Who arrives and who serves. Of requests with given times the engine's run is exact, and
        answers if it has the time.
    within
        How far off mean and p99 of TTFT and E2EL may be, relative to the engine's mean, with the
        chance of 90 % that intervals have.
    budget : [seconds]
        Processor time that the engine may take. If it is not close enough by then, whoever is
        expected to be closest answers, and a warning says how far off that is.
    initial, drain, approximate
        See :func:`ode.solve`. Of another start, an end at the horizon, and policies read as others
        nobody measured errors, and the engine is not asked: the first method that can answers.

    Raises
    ------
    ConfigError
        If ``within`` or ``budget`` is not a finite number above 0.
    FluidServeError
        If nobody can answer.
    """
    check_limits(within, budget)
    plan = _over_time if question.ends else _steady
    methods, engine = plan(question, within, budget, approximate)
    if (initial is not None and initial.mass > 0) or not drain:
        engine = None
        methods = _methods(question, approximate, initial=initial, drain=drain)
    before = _before(question, tuple(methods)) if engine is not None else {}
    asking = Asking(within, methods, engine, before, engine_first=question.is_file)
    chosen, tried = asking.chosen()
    assert chosen.of is not None
    return Answer(chosen.method, chosen.error, tried, within, chosen.of)


Plan = tuple[Mapping[str, Callable[[], Solution | Stationary]], Callable[[], ByEngine] | None]
"""What asks each method, and what asks the engine; None where it cannot be asked."""


def _over_time(question: Question, within: float, budget: float, approximate: bool) -> Plan:
    methods = _methods(question, approximate)
    if _reads_otherwise(question, approximate):
        return methods, None
    return methods, lambda: over_time(question, within, budget)


def _methods(
    question: Question, approximate: bool, **options: Any
) -> Mapping[str, Callable[[], Solution]]:
    """Return what asks each method over time."""

    def ask(method: str) -> Solution:
        return solve(
            question.profile, question.mix, question.instance, method=method,
            approximate=approximate, **options,
        )  # fmt: skip

    return {method: partial(ask, method) for method in CANDIDATES}


def _steady(question: Question, within: float, budget: float, approximate: bool) -> Plan:
    def ask() -> Stationary:
        found = stationary(
            question.mix, question.instance, question.known_rate,
            dispersion=question.dispersion, approximate=approximate,
        )  # fmt: skip
        if is_constant:
            return found
        return replace(found, expects=lambda _: ErrorReport(reason=CHANGING))

    is_constant = isinstance(question.stream.shape, Constant)
    methods = dict.fromkeys(STEADY, ask)
    if not is_constant or _reads_otherwise(question, approximate):
        return methods, None
    return methods, lambda: steady(question, within, budget)


def _reads_otherwise(question: Question, approximate: bool) -> bool:
    """Return whether methods are to read a policy as another, which the engine does not."""
    if not approximate:
        return False
    try:
        return bool(policy_labels(question.instance, approximate=True))
    except UnsupportedError:  # no fluid model reads the instance at all
        return False


def _before(question: Question, methods: tuple[str, ...]) -> Mapping[str, ErrorReport | float]:
    """Return what is known of the errors of methods before they are asked."""
    try:
        profile = question.profile if question.ends else None
        rate = question.known_rate if profile is None else profile.mean_rate
        scatter = question.dispersion if profile is None else profile.dispersion
        return before_the_answer(methods, question.mix, question.instance, rate, scatter, profile)
    except FluidServeError:
        return {}
