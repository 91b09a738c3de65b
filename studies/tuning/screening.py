"""The fluid model as a scout: it says where the engine should look first, never what is true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from serving import Distribution, SolveError, UnsupportedError
from studies.tuning.engine import GROWTH_SCALE
from studies.tuning.knobs import Operation
from studies.tuning.slo import Slo

Predictor = Callable[[Operation], Mapping[str, Distribution]]
"""From an operation to its stationary latencies by name; SolveError where it has none."""


NEARLY_FULL = 0.995
"""Load from which every latency counts as unbounded: so near to capacity an equilibrium is slow to
solve, and a scout need not know."""


def load_of(operation: Operation) -> float:
    """Return the mean arrival rate over lambda_M; infinite for a node that has none."""
    from fluid import capacity

    most = capacity(operation.workload.mix, operation.instance)
    return operation.mean_rate / most if most > 0 else float("inf")


def predict(operation: Operation) -> Mapping[str, Distribution]:
    """Return the stationary latencies that the fluid model predicts.

    Raises
    ------
    SolveError
        If more arrives than the node can serve.
    """
    load = load_of(operation)
    if load >= 1:
        raise SolveError("stationary", "overload", f"load {load:.4g}: there is no steady state")
    from ode import stationary

    found = stationary(
        operation.workload.mix, operation.instance, operation.mean_rate, approximate=True
    )
    return found.latencies


class Screen:
    """Margins of the fluid model at values of a knob, each solved once."""

    def __init__(
        self,
        turned: Callable[[float], Operation],
        slos: Sequence[Slo],
        predictor: Predictor | None = None,
    ) -> None:
        self._turned, self._slos = turned, slos
        self._predictor = predict if predictor is None else predictor
        self._known: dict[float, float | None] = {}
        self.problem: str | None = None

    @property
    def runs(self) -> int:
        """Fluid solutions so far."""
        return len(self._known)

    def margin(self, value: float) -> float | None:
        """Return the largest log(statistic / limit), or load - 1 in percent without objectives.

        Positive where an objective is missed; None where the fluid model has no answer.
        """
        if value not in self._known:
            self._known[value] = self._margin(value)
        return self._known[value]

    def _margin(self, value: float) -> float | None:
        try:
            operation = self._turned(value)
            load = load_of(operation)
            if not self._slos:
                return (load - 1) / GROWTH_SCALE
            latencies = self._predictor(operation) if load < NEARLY_FULL else {}
        except SolveError as error:
            if error.status == "overload":
                return math.inf
            self.problem = str(error)
            return None
        except UnsupportedError as error:
            self.problem = str(error)
            return None
        if load >= NEARLY_FULL:
            return math.inf
        unknown = [slo.latency for slo in self._slos if slo.latency not in latencies]
        if unknown:
            self.problem = f"it has no {unknown[0]}"
            return None
        return max(slo.margin(slo.predicted(latencies[slo.latency])) for slo in self._slos)
