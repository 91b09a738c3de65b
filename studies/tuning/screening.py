"""The fluid model as a scout: it says where the engine should look first, never what is true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from serving import Distribution, SolveError, UnsupportedError
from studies.question import Question
from studies.tuning.engine import GROWTH_SCALE
from studies.tuning.slo import Slo

Predictor = Callable[[Question], Mapping[str, Distribution]]
"""From a question to its stationary latencies by name; SolveError where it has none."""

NEARLY_FULL = 0.995
"""Load from which every latency counts as unbounded: so near to capacity an equilibrium is slow to
solve, and a scout need not know."""


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
    load = load_of(question)
    if load >= 1:
        raise SolveError("stationary", "overload", f"load {load:.4g}: there is no steady state")
    from ode import stationary

    rate = question.stream.mean_rate
    return stationary(
        question.mix,
        question.instance,
        rate,
        dispersion=question.dispersion,
        approximate=True,
    ).latencies


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
        self._predictor = predict if predictor is None else predictor
        self._known: dict[float, float | None] = {}
        self.runs = 0
        self.problem: str | None = None

    def margin(self, value: float) -> float | None:
        """Return the largest log(statistic / limit), or load - 1 in percent without objectives.

        Positive where an objective is missed; None where the fluid model has no answer.
        """
        if value not in self._known:
            self._known[value] = self._margin(value)
        return self._known[value]

    def _margin(self, value: float) -> float | None:
        try:
            question = self._turned(value)
            load = load_of(question)
            self.runs += 1
            if not self._slos:
                return (load - 1) / GROWTH_SCALE
            if load >= NEARLY_FULL:
                return math.inf
            latencies = self._predictor(question)
        except SolveError as error:
            if error.status == "overload":
                return math.inf
            self.problem = str(error)
            return None
        except UnsupportedError as error:
            self.problem = str(error)
            return None
        unknown = [slo.latency for slo in self._slos if slo.latency not in latencies]
        if unknown:
            self.problem = f"it has no {unknown[0]}"
            return None
        return max(slo.margin(slo.predicted(latencies[slo.latency])) for slo in self._slos)
