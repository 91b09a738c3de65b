"""The fluid model as a scout: it says where the engine should look first, never what is true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ode.error_model import ErrorReport
from serving import Distribution, SolveError, UnsupportedError
from studies.question import Question
from studies.tuning.engine import GROWTH_SCALE
from studies.tuning.slo import Slo

CAPACITY_UNKNOWN = "how far off the capacity is was not measured"

Predictor = Callable[[Question], Mapping[str, Distribution]]
"""From a question to its stationary latencies by name; SolveError where it has none."""

NEARLY_FULL = 0.995
"""Load from which every latency counts as unbounded: so near to capacity an equilibrium is slow to
solve, and a scout need not know."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Stationary latencies, and how far off they are expected to be.

    Parameters
    ----------
    latencies
        By name.
    error
        Of them.
    """

    latencies: Mapping[str, Distribution]
    error: ErrorReport


@dataclass(frozen=True, slots=True)
class Margins:
    """Margins at a value of a knob: positive where an objective is missed.

    Parameters
    ----------
    predicted
        Of the fluid model.
    low, middle, high
        Between which, and about which, that of the engine is expected; None where nobody knows.
    unknown
        Why nobody knows; empty where somebody does.
    """

    predicted: float
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    unknown: str = ""


def load_of(question: Question) -> float:
    """Return the mean arrival rate over lambda_M, or over the highest with an equilibrium.

    Infinite for an instance that has none.

    Raises
    ------
    UnsupportedError
        If no fluid model reads the instance.
    """
    from fluid import highest_rate

    most = highest_rate(question.mix, question.instance)
    return question.stream.mean_rate / most if most > 0 else math.inf


def predict(question: Question) -> Mapping[str, Distribution]:
    """Return the stationary latencies that the fluid model predicts.

    Raises
    ------
    SolveError
        If more arrives than the node can serve.
    UnsupportedError
        If no fluid model reads the instance.
    """
    return prediction(question).latencies


def prediction(question: Question, predictor: Predictor | None = None) -> Prediction:
    """Return what :func:`predict` returns, or another model, and what is known of its error.

    Parameters
    ----------
    question
        Steady stream and instance.
    predictor
        Another model; nobody knows how far off it is.

    Raises
    ------
    SolveError, UnsupportedError
        See :func:`predict`.
    """
    if predictor is not None:
        return Prediction(predictor(question), ErrorReport(reason="a model of one's own"))
    load = load_of(question)
    if load >= 1:
        raise SolveError("stationary", "overload", f"load {load:.4g}: there is no steady state")
    from ode import stationary

    found = stationary(
        question.mix,
        question.instance,
        question.stream.mean_rate,
        dispersion=question.dispersion,
        approximate=True,
    )
    return Prediction(found.latencies, found.error)


class Screen:
    """Margins of the fluid model at values of a knob, each solved once.

    Parameters
    ----------
    turned
        From a value of the knob to the question there.
    slos
        Objectives; without any, the margin is that of the load.
    predictor
        Model that predicts the latencies, :func:`predict` by default.

    Attributes
    ----------
    runs
        Values at which the fluid model was asked and reads the instance.
    problem
        Why the model had no answer at a value, in words; None where it always had one.
    """

    def __init__(
        self,
        turned: Callable[[float], Question],
        slos: Sequence[Slo],
        predictor: Predictor | None = None,
    ) -> None:
        self._turned, self._slos = turned, slos
        self._predictor = predictor
        self._known: dict[float, Margins | None] = {}
        self.runs = 0
        self.problem: str | None = None

    @property
    def values(self) -> list[float]:
        """Values at which the model has an answer, the smallest first."""
        return sorted(value for value, margins in self._known.items() if margins is not None)

    def margin(self, value: float) -> float | None:
        """Return the largest log(statistic / limit), or load - 1 in percent without objectives.

        Positive where an objective is missed; None where the fluid model has no answer.
        """
        margins = self.margins(value)
        return None if margins is None else margins.predicted

    def margins(self, value: float) -> Margins | None:
        """Return the margin, and where that of the engine is expected."""
        if value not in self._known:
            self._known[value] = self._margins(value)
        return self._known[value]

    def _margins(self, value: float) -> Margins | None:
        try:
            question = self._turned(value)
            load = load_of(question)
            self.runs += 1
            if not self._slos:
                return Margins((load - 1) / GROWTH_SCALE, unknown=CAPACITY_UNKNOWN)
            if load >= NEARLY_FULL:
                return Margins(math.inf, math.inf, math.inf, math.inf)
            found = prediction(question, self._predictor)
        except SolveError as error:
            if error.status == "overload":
                return Margins(math.inf, math.inf, math.inf, math.inf)
            self.problem = str(error)
            return None
        except UnsupportedError as error:
            self.problem = str(error)
            return None
        latencies = found.latencies
        unknown = [slo.latency for slo in self._slos if slo.latency not in latencies]
        if unknown:
            self.problem = f"it has no {unknown[0]}"
            return None
        margins = [slo.margin(slo.predicted(latencies[slo.latency])) for slo in self._slos]
        return self._expected(margins, found.error)

    def _expected(self, margins: Sequence[float], error: ErrorReport) -> Margins:
        """Return the largest of the margins, and where that of the engine is expected."""
        known = [error.errors.get(slo.metric) for slo in self._slos]
        if any(of is None for of in known):
            names = [slo.name for slo, of in zip(self._slos, known, strict=True) if of is None]
            unknown = error.reason or f"errors of {names[0]} were not measured"
            return Margins(max(margins), unknown=unknown)
        low, middle, high = (
            max(
                margin - of.bias + sign * of.half_width
                for margin, of in zip(margins, known, strict=True)
                if of is not None
            )
            for sign in (-1, 0, 1)
        )
        return Margins(max(margins), low, middle, high)
