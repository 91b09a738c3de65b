"""The method that answers: the cheapest whose expected error is small enough, else the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ode import Solution, solve
from ode.error_model.model import Expected
from ode.error_model.report import DECIDING, ErrorReport
from serving import ConfigError, ServingMetrics, SolveError, Trajectory, UnsupportedError
from studies.campaign.scenarios import Scenario
from studies.campaign.truth import Truth, truth_of
from studies.choice import WITHIN
from studies.comparison import Ensemble, Replications, run_ensemble
from studies.question import Question

BUDGET = 10.0
"""How long the engine may take [seconds]."""

ENGINE = "engine"
"""Name of the answer that is the mean over runs of the engine."""

CANDIDATES = ("lagrangian", "node_work")
"""Methods over time, the cheapest first."""

NORMAL = 1.645
"""Standard errors to both sides that hold 90 % of normal values."""

FEWEST = 8
"""Replications of the engine at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A method that was asked.

    Parameters
    ----------
    method
        Of :data:`CANDIDATES`.
    error
        What it expects of its own error; the reason, where it has no answer.
    """

    method: str
    error: ErrorReport


@dataclass(frozen=True, slots=True, eq=False)
class Automatic:
    """An answer, and why it comes from whom it comes.

    Parameters
    ----------
    chosen
        Of :data:`CANDIDATES`, or :data:`ENGINE`.
    error
        What the answer expects of its own error.
    tried
        Every method that was asked, in order.
    solution
        Of the chosen method; None if the engine answers.
    ensemble
        Runs of the engine; None if a method answers.
    """

    chosen: str
    error: ErrorReport
    tried: tuple[Tried, ...]
    solution: Solution | None = None
    ensemble: Ensemble | None = None

    @property
    def trajectory(self) -> Trajectory:
        """Every output over time; of the engine, the mean over its runs."""
        if self.solution is not None:
            return self.solution.trajectory
        assert self.ensemble is not None
        return self.ensemble.mean

    @property
    def words(self) -> str:
        """Why the engine answers, in a line."""
        why = "; ".join(f"{each.method}: {each.error.words}" for each in self.tried)
        return f"{self.error.replications} runs of the engine, as no method is close enough ({why})"

    def too_far(self, within: float, budget: float) -> str:
        """Say that the engine's own noise is larger than was allowed."""
        return (
            f"the engine's mean is known to {self.error.bound:.0%} after {budget:g} s, not to "
            f"{within:.0%}; give a larger --budget"
        )

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics; of the engine, over all requests of all runs.

        Parameters
        ----------
        goodput
            Thresholds by latency name [time]; those of :func:`automatic` where the engine answers.
        """
        if self.solution is not None:
            return self.solution.metrics(goodput)
        assert self.ensemble is not None and self.ensemble.metrics is not None
        return self.ensemble.metrics


def automatic(
    question: Question,
    *,
    within: float = WITHIN,
    budget: float = BUDGET,
    goodput: Mapping[str, float] | None = None,
) -> Automatic:
    """Return the answer over time of the cheapest method that is good enough.

    Parameters
    ----------
    question
        Arrivals from an empty start, counted until the last has left.
    within
        How far off mean and p99 of TTFT and E2EL may be, relative to the engine's mean, with the
        chance that the intervals have.
    budget : [seconds]
        How long the engine may take, if no method is good enough. Its answer may be further off
        than ``within`` then, and says by how much.
    goodput
        Thresholds by latency name [time].

    Raises
    ------
    ConfigError
        If ``within`` or ``budget`` is not a finite number above 0.
    """
    for name, value in (("within", within), ("budget", budget)):
        if not 0 < value < math.inf:
            raise ConfigError(name, value, "a finite number > 0")
    tried = []
    for method in CANDIDATES:
        try:
            flow = solve(question.profile, question.mix, question.instance, method=method)
            error = flow.error
        except (SolveError, UnsupportedError) as problem:
            tried.append(Tried(method, ErrorReport(reason=str(problem))))
            continue
        tried.append(Tried(method, error))
        if error.bound <= within:
            return Automatic(method, error, tuple(tried), solution=flow)
    return _by_the_engine(question, within, budget, tuple(tried), goodput)


def _by_the_engine(
    question: Question,
    within: float,
    budget: float,
    tried: tuple[Tried, ...],
    goodput: Mapping[str, float] | None,
) -> Automatic:
    """Return the engine's answer, of as many runs as its own standard errors ask for."""
    scenario = Scenario(0, "asked", "over_time", question)
    small = math.log1p(within) / NORMAL
    # half of the time says how many runs it takes, the other half makes them once more
    found = truth_of(scenario, budget / 2, small_mean=small, small_tail=small, longer=1.0)
    runs = Replications(max(found.replications, FEWEST), workers=1)
    ensemble = run_ensemble(question, runs, goodput=goodput)
    return Automatic(ENGINE, engine_error(found), tried, ensemble=ensemble)


def engine_error(found: Truth) -> ErrorReport:
    """Return what the engine's standard errors say of its means over replications."""
    errors = {
        name: Expected(0.0, NORMAL * value)
        for name, value in found.standard_error.items()
        if value is not None and math.isfinite(value)
    }
    missing = [name for name in DECIDING if name not in errors]
    reason = f"the engine's runs do not tell {', '.join(missing)}" if missing else None
    return ErrorReport(errors, reason, found.replications)
