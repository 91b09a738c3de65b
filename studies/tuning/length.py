"""How long a run must be to say something of a steady state: it follows the size of the node.

A run starts from an empty node, and its first tenth is dropped. A node that holds many requests at
once is still filling then, which looks like a backlog that grows. The requests in a node come and
go within a stay, so that lengths are counted in *turnovers*: requests in the node, times how much
longer those found in it decode than an arrival does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from serving import SolveError, UnsupportedError
from studies.question import Question

LEAST_TURNOVERS = 25
"""Turnovers of the shortest run: a node that is filling shows less growth than .4 % of its arrivals
up to a load of .95."""

DECIDING_TURNOVERS = 50
"""Turnovers of the runs that decide: the growth of a filling node is below .1 % of the arrivals."""


def turnover(questions: Iterable[Question]) -> float:
    """Return the most requests that one turnover takes in any of ``questions``.

    0 where no fluid model reads the instance: how many requests it holds is not known then.
    """
    return max((_turnover(each) for each in questions), default=0.0)


def _turnover(question: Question) -> float:
    from fluid import equilibrium, requests_that_fit

    mix, instance = question.mix, question.instance
    longer = float(mix.probability @ mix.decode.astype(float) ** 2) / mix.mean_decode**2
    try:
        held = requests_that_fit(mix, instance)
        held = min(held, equilibrium(mix, instance, question.stream.mean_rate).running)
    except SolveError:  # more arrives than it can serve: it is full
        pass
    except UnsupportedError:
        return 0.0
    return held * longer


def least_length(turnover: float, wanted: int) -> int:
    """Return the shortest length of a run [requests], ``wanted`` where that is enough."""
    return max(wanted, math.ceil(LEAST_TURNOVERS * turnover))


def deciding_length(turnover: float) -> int:
    """Return the shortest length [requests] of a run that decides."""
    return math.ceil(DECIDING_TURNOVERS * turnover)


def too_long(turnover: float) -> str:
    """Return what run length is allowed, and why, for a node that is large."""
    return (
        f"a whole number >= {deciding_length(turnover)}: some {turnover:.3g} requests pass before "
        f"a node of this size has been renewed once, and a steady state takes "
        f"{DECIDING_TURNOVERS} times as many; or a smaller --scale"
    )
