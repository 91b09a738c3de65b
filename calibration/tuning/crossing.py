"""Two neighbouring values of a knob with opposite verdicts, and how they are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from calibration.tuning.engine import Point
from calibration.tuning.knobs import Knob

NEAR = 0.3
"""Log margin within which short runs count as having been led to the crossing."""

MOST_SCOUTS = 6
MOST_STEPS = 40
LEAST_SLOPE = 0.5
"""Of a margin over the log of the knob: growth of the backlog beyond capacity has 1."""

STEADY = 0.2
"""Wanted spread of a margin over replications, in brackets: three or four then tell the ends."""

OFF = 0.45
"""Brackets from the crossing at which its ends are tried."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Neighbouring values of which one meets the objectives and the other does not.

    Parameters
    ----------
    met, missed
        The two, measured at the final run length.
    """

    met: Point
    missed: Point

    @property
    def bracket(self) -> tuple[float, float]:
        """The two values, smaller first."""
        low, high = sorted((self.met.value, self.missed.value))
        return low, high

    @property
    def estimate(self) -> float:
        """Where the margin is 0 on the line between the two."""
        a, b = self.met, self.missed
        share = -a.margin / (b.margin - a.margin) if b.margin > a.margin else 0.5
        return a.value + min(max(share, 0.0), 1.0) * (b.value - a.value)

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Return a confidence interval of the crossing: the margins' errors over their slope.

        Replications are common to both ends, so the slope is far better known than the margins.
        None where a margin has no error.
        """
        from scipy.stats import t

        a, b = self.met, self.missed
        rise = b.margin - a.margin
        counts = [p.replications for p in (a, b) if p.replications > 1 and p.spread > 0]
        if rise <= 0 or not counts:
            return None
        errors = [p.spread / math.sqrt(p.replications) for p in (a, b) if p.replications > 1]
        half = float(t.ppf(0.5 + confidence / 2, min(counts) - 1)) * max(errors)
        half *= abs(b.value - a.value) / rise
        return self.estimate - half, self.estimate + half


@dataclass(slots=True)
class CrossingSearch:
    """Narrows one change of verdict: scouts with short runs, then closes in with long ones.

    Parameters
    ----------
    knob
        What is turned.
    measure
        From value, run length and most replications (None: all) to a point.
    tolerance
        Relative width of the bracket wanted.
    least, most
        Requests of a run.
    """

    knob: Knob
    measure: Callable[[float, int, int | None], Point]
    tolerance: float
    least: int
    most: int

    def find(self, low: Point, high: Point, guess: float | None) -> tuple[Crossing | None, int]:
        """Return the crossing between two points of opposite verdicts, and the run length.

        Parameters
        ----------
        low, high
            Scanned with short runs, the smaller value first.
        guess
            Where the fluid model sees it.
        """
        sign = 1.0 if low.met else -1.0  # of the margin's slope
        low, high, at, slope, spread = self._scouted(low, high, guess)
        length = self._length(slope, spread)
        met, missed = (low, high) if low.met else (high, low)
        root = math.log(at.value) - sign * at.margin / slope
        before: Point | None = None
        for step in range(MOST_STEPS):
            if self._closed(met, missed):
                met, missed = (self.measure(each.value, length, None) for each in (met, missed))
                if met.met and not missed.met:
                    return Crossing(met, missed), length
                opened = self._reopened(met, missed, sign, length)
                if opened is None:
                    return None, length
                met, missed = opened
                root = 0.5 * (math.log(met.value) + math.log(missed.value))
                continue
            value = self._candidate(met, missed, root, sign, halve=step >= 6)
            point = self.measure(value, length, None)
            met, missed = (point, missed) if point.met else (met, point)
            slope = _slope(before, point, slope) if before is not None else slope
            root = math.log(point.value) - sign * point.margin / slope
            before = point
        return None, length

    def _scouted(
        self, low: Point, high: Point, guess: float | None
    ) -> tuple[Point, Point, Point, float, float]:
        """Return the ends, the point nearest to the crossing, the slope and the spread there."""
        value = _secant(low, high) if guess is None else guess
        at, slope = low, LEAST_SLOPE
        for _ in range(MOST_SCOUTS):
            value = self.knob.rounded(value)
            if value in (low.value, high.value):
                at = low if value == low.value else high
                break
            at = self.measure(value, self.least, 3)
            slopes = [_slope(each, at, math.nan) for each in (low, high) if abs(each.margin) < 5]
            slope = max([s for s in slopes if math.isfinite(s)], default=LEAST_SLOPE)
            low, high = (at, high) if at.met == low.met else (low, at)
            if abs(at.margin) < NEAR:
                break
            value = _secant(low, high)
        return low, high, at, slope, at.spread

    def _length(self, slope: float, spread: float) -> int:
        """Return a run length at which the verdicts at both ends are certain with few runs."""
        if not math.isfinite(spread):
            return self.least
        wanted = self.least * (spread / (STEADY * self.tolerance * slope)) ** 2
        return int(min(max(wanted, self.least), self.most))

    def _closed(self, met: Point, missed: Point) -> bool:
        low, high = sorted((met.value, missed.value))
        if self.knob.integer and high - low <= 1:
            return True
        return math.log(high / low) <= self.tolerance * (1 + 1e-9)

    def _candidate(
        self, met: Point, missed: Point, root: float, sign: float, *, halve: bool
    ) -> float:
        """Return the next value: half a bracket off the root, on the side that is less known."""
        a, b = math.log(met.value), math.log(missed.value)
        inside = min(a, b) < root < max(a, b)
        on_met_side = abs(root - a) > abs(b - root)
        u = root + (-sign if on_met_side else sign) * OFF * self.tolerance
        if halve or not inside or not min(a, b) < u < max(a, b):
            u = 0.5 * (a + b)
        value = self.knob.rounded(math.exp(u))
        low, high = sorted((met.value, missed.value))
        if self.knob.integer and not low < value < high:
            value = low + 1 if value <= low else high - 1
        return value

    def _reopened(
        self, met: Point, missed: Point, sign: float, length: int
    ) -> tuple[Point, Point] | None:
        """Return opposite verdicts by long runs, where short ones had misled; None if not near."""
        up = met.met  # both met: the crossing is further on the missed side
        end = missed if up else met
        direction = sign if up else -sign
        for doubling in range(1, 12):
            step = direction * self.tolerance * 2.0**doubling
            value = self.knob.rounded(end.value * math.exp(step))
            try:
                point = self.measure(value, length, None)
            except (ValueError, ArithmeticError):
                return None
            if point.met != up:
                return (end, point) if up else (point, end)
            end = point
        return None


def _secant(low: Point, high: Point) -> float:
    """Return where the line between two points crosses 0, in logs; far margins count as 2."""
    a, b = (min(max(each.margin, -2.0), 2.0) for each in (low, high))
    share = min(max(a / (a - b), 0.1), 0.9) if a != b else 0.5
    return low.value * (high.value / low.value) ** share


def _slope(one: Point, other: Point, otherwise: float) -> float:
    """Return the slope of the margin over the log of the knob, its size alone."""
    run = math.log(other.value / one.value)
    rise = other.margin - one.margin
    return max(abs(rise / run), LEAST_SLOPE) if run != 0 and rise != 0 else otherwise
