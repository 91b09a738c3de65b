"""Which answer to take: the first that is expected to be close enough, else the closest."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ode.error_model.report import ErrorReport

WITHIN = 0.05
"""How far off an answer may be, relative, where nobody says so."""


def first_within(errors: Mapping[str, ErrorReport], within: float = WITHIN) -> str | None:
    """Return the first whose mean and p99 of TTFT and E2EL are expected to be close enough.

    Parameters
    ----------
    errors
        What each answer expects of its own error, by name, the cheapest first.
    within
        How far off it may be, relative to the engine's mean, with the chance of the intervals.

    Returns
    -------
    str or None
        None where none is.
    """
    return next((name for name, error in errors.items() if error.bound <= within), None)


def closest(errors: Mapping[str, ErrorReport]) -> str | None:
    """Return whose error is expected to be the smallest; None where nobody knows any."""
    known = {name: error.bound for name, error in errors.items() if math.isfinite(error.bound)}
    return min(known, key=known.__getitem__, default=None)
