"""How long the engine may take: processor time, so that a busy machine does not change answers."""

from __future__ import annotations

import time

import numpy as np

import discrete
from serving import FluidServeError, RequestTable
from studies.question import Question


class OverBudgetError(FluidServeError):
    """The engine was stopped, since it would have taken longer than it may."""


class Clock:
    """Processor time since the start, compilation and its caches not counted.

    Parameters
    ----------
    question
        Whose engine is made ready before the clock starts.
    budget : [seconds]
        How long all runs may take together.
    """

    def __init__(self, question: Question, budget: float) -> None:
        _make_ready(question)
        self.budget = budget
        self._began = time.process_time()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self._began

    def look(self, _: discrete.Progress) -> None:
        """Stop a run that takes too long; an engine looks here every few tens of milliseconds.

        Raises
        ------
        OverBudgetError
            If the budget is spent.
        """
        if self.spent > self.budget:
            raise OverBudgetError(f"the engine did not get to an end within {self.budget:g} s")


_READY: set[str] = set()
"""Kinds whose engine has run in this process."""


def _make_ready(question: Question) -> None:
    """Run one request once per kind, so that compiled code is there before time counts."""
    name = question.instance.engine
    if name not in _READY:
        source = question.source
        if isinstance(source, RequestTable):
            one = source.take(np.array([0]))
        else:
            one = source.sample(question.seed, num_requests=1)
        discrete.simulate(one, question.instance, sample_times=[0.0]).samples()
        _READY.add(name)
