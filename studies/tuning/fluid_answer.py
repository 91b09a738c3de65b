"""The crossing that the fluid model sees, and how far from it that of the engine is expected.

A model that is off by a factor moves the crossing by the logarithm of this factor over the slope of
the margin. Where the slope changes, the interval's own crossings are sought: where the margin, less
what it may be off, is 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ode.error_model.model import COVERS, LEVELS, UNKNOWN
from studies.tuning.knobs import Knob
from studies.tuning.screening import Margins, Screen

FLAT = "the objective hardly depends on the knob there: within what it may be off it does not cross"
MANY = "the fluid model sees several crossings"
FEW = "between few values there is no line to cross"
NONE = "the fluid model sees no crossing"

AT_CAPACITY = (
    "an end of the interval is at the capacity, where latencies are unbounded; how far off the "
    "capacity itself is is not in it"
)


@dataclass(frozen=True, slots=True)
class FluidAnswer:
    """What the fluid model alone says of the value that is sought.

    Parameters
    ----------
    middle
        Value at which the engine is expected to cross, its bias allowed for; None where unknown.
    interval
        Between which :data:`COVERS` of the answers like this one are; None where unknown.
    reason
        Why nobody knows an interval, or what it leaves out; empty where there is nothing to say.
    """

    middle: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""

    @property
    def bound(self) -> float:
        """How far the engine's value may be from the middle, relative.

        Infinite where unknown, and where the interval leaves something out.
        """
        if self.interval is None or self.middle is None or self.reason:
            return math.inf
        low, high = self.interval
        return max(self.middle / low, high / self.middle) - 1

    def to_json(self) -> dict[str, Any]:
        """Return the answer and its error, the middle over the engine's value less 1."""
        return {
            "middle": self.middle,
            "interval": None if self.interval is None else list(self.interval),
            "covers": COVERS,
            "reason": self.reason,
        }


def confidence_word(bound: float) -> str:
    """Return ``high``, ``fair``, ``low`` or ``unknown`` for a relative error."""
    if not math.isfinite(bound):
        return UNKNOWN
    return next((word for word, within in LEVELS if bound <= within), "low")


def fluid_answer(
    screen: Screen, knob: Knob, edges: Sequence[float], bracket: tuple[float, float], width: float
) -> FluidAnswer:
    """Return the crossing that the engine is expected to have, from what the model says.

    Parameters
    ----------
    screen
        Has been asked at values of the bracket.
    knob
        What is turned.
    edges
        Crossings of the fluid model in the bracket.
    bracket
        Two values between which to look.
    width
        Of a crossing, as a ratio of its ends less 1.
    """
    if len(edges) != 1:
        return FluidAnswer(reason=MANY if edges else NONE)
    if knob.values:
        return FluidAnswer(reason=FEW)
    ends = [
        _crossing(screen, knob, part, bracket, edges[0], width)
        for part in ("low", "middle", "high")
    ]
    if any(end is None for end in ends):
        there = screen.margins(edges[0])
        return FluidAnswer(reason=FLAT if there is None else there.unknown or FLAT)
    low, high = sorted((ends[0], ends[2]))  # type: ignore[type-var]
    at_capacity = any(_is_capacity(screen, knob, end, width) for end in (low, high))
    return FluidAnswer(ends[1], (low, high), AT_CAPACITY if at_capacity else "")  # type: ignore[arg-type]


def _crossing(
    screen: Screen, knob: Knob, part: str, bracket: tuple[float, float], near: float, width: float
) -> float | None:
    """Return where one end of the engine's margin is 0, nearest to a value; None if nowhere."""

    def margin(value: float) -> float | None:
        found: Margins | None = screen.margins(value)
        return None if found is None else getattr(found, part)

    asked = [(x, margin(x)) for x in screen.values if bracket[0] <= x <= bracket[1]]
    between = [
        (a, b, m_a <= 0)
        for (a, m_a), (b, m_b) in itertools.pairwise(asked)
        if m_a is not None and m_b is not None and (m_a <= 0) != (m_b <= 0)
    ]
    if not between:
        return None
    low, high, met_below = min(between, key=lambda each: _distance(near, each[0], each[1]))
    return edge_between(margin, knob, (low, high), met_below=met_below, width=width)


def _distance(value: float, low: float, high: float) -> float:
    """Return how far a value is from a bracket, as a logarithm."""
    return max(math.log(low / value), math.log(value / high), 0.0)


def _is_capacity(screen: Screen, knob: Knob, value: float, width: float) -> bool:
    """Return whether latencies are unbounded right beside a value."""
    beside = [knob.rounded(value * (1 + sign * 2 * width)) for sign in (-1, 1)]
    found = [screen.margin(each) for each in beside]
    return any(each is not None and math.isinf(each) for each in found)


def edge_between(
    margin: Callable[[float], float | None],
    knob: Knob,
    between: tuple[float, float],
    *,
    met_below: bool,
    width: float,
) -> float:
    """Return the end that meets the objectives, of a bracket narrowed to a ratio of 1 + width."""
    low, high = between
    while math.log(high / low) > width:
        middle = knob.rounded(math.sqrt(low * high))
        found = margin(middle) if low < middle < high else None
        if found is None:
            break
        low, high = (middle, high) if (found <= 0) == met_below else (low, middle)
    return low if met_below else high
