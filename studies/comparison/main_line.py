"""The method that a comparison shows first: the cheapest whose expected error is small enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ode.error_model import ErrorReport
from ode.error_model.model import COVERS
from studies.choice import closest, first_within

CHEAPEST_FIRST = ("lagrangian", "node_work")
"""Methods whose expected errors are known, the cheapest first."""


@dataclass(frozen=True, slots=True)
class MainLine:
    """The method that is shown first.

    Parameters
    ----------
    method
        Its name.
    within
        How far off it was to be, relative.
    words
        Why it is this one.
    """

    method: str
    within: float
    words: str


def main_line(errors: Mapping[str, ErrorReport], within: float) -> MainLine:
    """Return the method that is shown first.

    Parameters
    ----------
    errors
        What each method expects of its own error, by name; at least one.
    within
        How far off mean and p99 of TTFT and E2EL may be, relative.
    """
    known = {name: errors[name] for name in CHEAPEST_FIRST if name in errors}
    asked = f"within {100 * within:.3g} %"
    if (name := first_within(known, within)) is not None:
        most = _most(known[name].bound)
        return MainLine(
            name, within, f"the cheapest method that is expected to be {asked} ({most})"
        )
    if (name := closest(known)) is not None:
        most = _most(known[name].bound)
        said = f"no method is expected to be {asked}; this one comes nearest ({most})"
        return MainLine(name, within, said)
    name = "lagrangian" if "lagrangian" in errors else next(iter(errors))
    return MainLine(name, within, "how far off any of them is was not measured for such answers")


def _most(bound: float) -> str:
    """Say a bound of mean and p99 of TTFT and E2EL."""
    off = f"{100 * bound:.2g}" if bound < 1 else f"{100 * bound:,.0f}"
    return f"{100 * COVERS:.0f} % of answers like it are off by {off} % or less"
