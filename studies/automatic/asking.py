"""Who is asked in which order, until somebody is close enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ode.error_model.report import ErrorReport
from serving import FluidServeError
from studies.choice import closest

if TYPE_CHECKING:
    from ode import Solution, Stationary
    from studies.automatic.by_engine import ByEngine

ENGINE = "engine"
"""Name of the answer that is the mean over runs of the engine."""


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """Whoever might have answered.

    Parameters
    ----------
    method
        Of :data:`ode.METHODS`, ``stationary``, or :data:`ENGINE`.
    error
        What it expects of its own error; the reason, where it has no answer or was not asked.
    of
        Its answer; None where it has none.
    """

    method: str
    error: ErrorReport
    of: Solution | Stationary | ByEngine | None = None


@dataclass(slots=True, eq=False)
class Asking:
    """One question put to one after another.

    Parameters
    ----------
    within
        How far off an answer may be.
    methods
        By name, the cheapest first: what asks it.
    engine
        What asks the engine; None where it cannot be asked.
    before
        By method: what is known of its error before it has answered, see
        :func:`ode.error_model.report.before_the_answer`.
    engine_first
        Whether the engine is asked before the methods.
    """

    within: float
    methods: Mapping[str, Callable[[], Solution | Stationary]]
    engine: Callable[[], ByEngine] | None
    before: Mapping[str, ErrorReport | float] = field(default_factory=dict)
    engine_first: bool = False
    _tried: dict[str, Tried] = field(default_factory=dict)
    _problems: list[FluidServeError] = field(default_factory=list)

    def chosen(self) -> tuple[Tried, tuple[Tried, ...]]:
        """Return who answers, and everybody who might have.

        Raises
        ------
        FluidServeError
            If nobody can answer: why the first cannot.
        """
        if self.engine_first and self._is_close(self._of_engine()):
            return self._answered(ENGINE)
        for name in self.methods:
            # the engine knows what it says, and is cheaper than an answer that will not do
            if self.engine is not None and ENGINE not in self._tried and self._is_hopeless(name):
                continue
            if self._is_close(self._of_method(name)):
                return self._answered(name)
        if self.engine is not None and not self.engine_first and self._is_close(self._of_engine()):
            return self._answered(ENGINE)
        for name in self.methods:
            if name not in self._tried and self._may_be_closer(name):
                self._of_method(name)
        errors = {name: each.error for name, each in self._tried.items() if each.of is not None}
        # of answers whose error nobody knows, the engine's is of no model
        order = sorted(errors, key=lambda name: name != ENGINE)
        best = closest(errors) or next(iter(order), None)
        if best is None:
            raise self._problems[0]
        return self._answered(best)

    def _is_close(self, tried: Tried) -> bool:
        return tried.of is not None and tried.error.bound <= self.within

    def _is_hopeless(self, name: str) -> bool:
        """Return whether it is known before it is asked that a method will not be close enough."""
        before = self.before.get(name)
        return before is not None and (isinstance(before, ErrorReport) or before > self.within)

    def _may_be_closer(self, name: str) -> bool:
        """Return whether a method that was left out may be closer than the engine came."""
        engine = self._tried.get(ENGINE)
        if engine is None or engine.of is None:
            return True
        before = self.before.get(name)
        return not isinstance(before, ErrorReport) and (before or 0.0) < engine.error.bound

    def _of_method(self, name: str) -> Tried:
        return self._asked(name, self.methods[name])

    def _of_engine(self) -> Tried:
        assert self.engine is not None
        return self._asked(ENGINE, self.engine)

    def _asked(self, name: str, ask: Callable[[], Solution | Stationary | ByEngine]) -> Tried:
        try:
            found = ask()
            tried = Tried(name, found.error, found)
        except FluidServeError as problem:
            self._problems.append(problem)
            tried = Tried(name, ErrorReport(reason=f"no answer: {problem}"))
        self._tried[name] = tried
        return tried

    def _answered(self, name: str) -> tuple[Tried, tuple[Tried, ...]]:
        """Return who answers, and everybody in the order in which they would be asked."""
        order = [*self.methods, *(() if self.engine is None else (ENGINE,))]
        if self.engine_first:
            order.sort(key=lambda each: each != ENGINE)
        last = order.index(name)
        everybody = [
            self._tried.get(each) or Tried(each, self._not_asked(each))
            for number, each in enumerate(order)
            if each in self._tried or number < last
        ]
        return self._tried[name], tuple(everybody)

    def _not_asked(self, name: str) -> ErrorReport:
        before = self.before.get(name)
        if isinstance(before, ErrorReport):
            return before
        least = math.nan if before is None else before
        return ErrorReport(reason=f"not asked, as it is known within {least:.0%} at best")
