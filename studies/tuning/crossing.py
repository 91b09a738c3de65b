"""Two neighbouring values of a knob with opposite verdicts, and how they are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from studies.tuning.engine import Point
from studies.tuning.knobs import Knob

NEAR = 0.3
"""Log margin within which short runs count as having been led to the crossing."""

FAR = 5.0
"""Log margin from which its size says nothing any more."""

SCOUT, SCOUTS, MOST_SCOUTS = 5, 3, 6
"""Length of a scout over that of a scanning run; replications of each; how many there may be."""

MOST_STEPS = 40
LEAST_SLOPE = 0.5
"""Of a margin over the log of the knob: growth of the backlog beyond capacity has 1."""

STEADY = 0.15
"""Wanted spread of a margin over replications, in brackets: three or four then tell the ends."""

PEEK, ON_IT, GROWTH = 5, 0.25, 4
"""Replications after which a verdict that is still open makes runs longer by a factor; but nearer
to the crossing, in brackets, than this, no length would decide it: then other ends are sought."""

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
        """Where the margin that is missed is 0, on the line between the two."""
        a, b = self._margins()
        share = -a / (b - a) if b > a else 0.5
        return self.met.value + min(max(share, 0.0), 1.0) * (self.missed.value - self.met.value)

    def _margins(self) -> tuple[float, float]:
        """Return the margins at both ends of the objective that is missed at one."""
        name = self.missed.binding
        return float(self.met.margins(name).mean()), float(self.missed.margins(name).mean())

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Return a confidence interval of the crossing: the margins' errors over their slope.

        Replications are common to both ends, so the slope is far better known than the margins.
        None where a margin has no error.
        """
        from scipy.stats import t

        name, (below, above) = self.missed.binding, self._margins()
        margins = [end.margins(name) for end in (self.met, self.missed)]
        margins = [each for each in margins if each.size > 1 and each.std() > 0]
        if above <= below or not margins:
            return None
        error = max(float(each.std(ddof=1)) / math.sqrt(each.size) for each in margins)
        count = min(each.size for each in margins)
        slope = (above - below) / abs(self.missed.value - self.met.value)
        half = float(t.ppf(0.5 + confidence / 2, count - 1)) * error / slope
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
    expected
        Margin that the fluid model expects at a value; None where it has no answer.
    certain
        Whether a point's verdict is.
    tolerance
        Relative width of the bracket wanted.
    least, most
        Requests of a run.
    limits
        Values beyond which the knob cannot go.
    """

    knob: Knob
    measure: Callable[[float, int, int | None], Point]
    expected: Callable[[float], float | None]
    certain: Callable[[Point], bool]
    tolerance: float
    least: int
    most: int
    limits: tuple[float, float]

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
        low, high, at, slope = self._scouted(low, high, guess, sign)
        length = self._length(slope, at.noise)
        met, missed = (low, high) if low.met else (high, low)
        known: list[Point] = []
        root = math.log(at.value) - sign * at.margin / slope
        for step in range(MOST_STEPS):
            if self._closed(met, missed):
                met, missed = (self.measure(each.value, length, PEEK) for each in (met, missed))
                if not (self.certain(met) and self.certain(missed)):
                    if length < self.most and not self._on_it(met, missed, slope):
                        length = min(GROWTH * length, self.most)
                        continue
                    met, missed = (self.measure(each.value, length, None) for each in (met, missed))
                if met.met and not missed.met:
                    return Crossing(met, missed), length
                opened = self._reopened(met, missed, sign, length)
                if opened is None:
                    return None, length
                met, missed = opened
                root = 0.5 * (math.log(met.value) + math.log(missed.value))
                continue
            stuck = step >= 8
            value = self._candidate(met, missed, root, sign, halve=stuck)
            point = self.measure(value, length, None if stuck else PEEK)
            certain = stuck or self.certain(point)
            if not certain and not self._on_it(point, point, slope):
                length = min(GROWTH * length, self.most)
            if certain or (length == self.most and not self._on_it(point, point, slope)):
                met, missed = (point, missed) if point.met else (met, point)
            if known and abs(math.log(point.value / known[-1].value)) > 0.3 * self.tolerance:
                slope = min(max(_slope(known[-1], point, slope), slope / 3), 3 * slope)
            known.append(point)
            nearest = min(known, key=lambda each: abs(each.margin))
            root = math.log(nearest.value) - sign * nearest.margin / slope
        return None, length

    def _scouted(
        self, low: Point, high: Point, guess: float | None, sign: float
    ) -> tuple[Point, Point, Point, float]:
        """Return the ends, the point nearest to the crossing, and the slope there."""
        length = min(SCOUT * self.least, self.most)
        value = _secant(low, high) if guess is None else guess
        at, slope = low, LEAST_SLOPE
        for _ in range(MOST_SCOUTS):
            value = self.knob.rounded(value)
            if not low.value < value < high.value:
                at = min((low, high), key=lambda each: abs(each.value - value))
                break
            at = self.measure(value, length, SCOUTS)
            slope = self._expected_slope(value)
            if slope is None:
                slopes = [_slope(each, at, math.nan) for each in (low, high)]
                slope = max([s for s in slopes if math.isfinite(s)], default=LEAST_SLOPE)
            if self.certain(at):  # or else no good end of a bracket
                low, high = (at, high) if at.met == low.met else (low, at)
            if abs(at.margin) < NEAR:
                break
            value = at.value * math.exp(-sign * at.margin / slope)
            if abs(at.margin) > FAR or not low.value < value < high.value:
                value = _secant(low, high)
        return low, high, at, slope

    def _expected_slope(self, value: float) -> float | None:
        """Return the fluid margin's slope over the log of the knob, its size alone."""
        least, most = self.limits
        ends = [self.knob.rounded(min(max(value * factor, least), most)) for factor in (0.98, 1.02)]
        margins = [self.expected(end) for end in ends]
        if None in margins or ends[0] == ends[1]:
            return None
        slope = abs(margins[1] - margins[0]) / math.log(ends[1] / ends[0])  # type: ignore[operator]
        return slope if math.isfinite(slope) and slope > LEAST_SLOPE else None

    def _length(self, slope: float, spread: float) -> int:
        """Return a run length at which the verdicts at both ends are certain with few runs."""
        length = min(SCOUT * self.least, self.most)
        if not math.isfinite(spread):
            return length
        wanted = length * (spread / (STEADY * self.tolerance * slope)) ** 2
        return int(min(max(wanted, length), self.most))

    def _on_it(self, one: Point, other: Point, slope: float) -> bool:
        """Return whether either point is too near to the crossing for any run length."""
        nearest = min(abs(one.margin), abs(other.margin))
        return nearest < ON_IT * self.tolerance * slope

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
            value = end.value * math.exp(direction * self.tolerance * 2.0**doubling)
            value = self.knob.rounded(min(max(value, self.limits[0]), self.limits[1]))
            if value == end.value or value <= 0:
                return None
            point = self.measure(value, length, None)
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
    """Return the slope of the margin over the log of the knob, its size alone.

    Between points that different objectives bind, or far from any limit, it tells nothing.
    """
    run = math.log(other.value / one.value)
    rise = other.margin - one.margin
    if one.binding != other.binding or max(abs(one.margin), abs(other.margin)) > FAR:
        return otherwise
    return max(abs(rise / run), LEAST_SLOPE) if run != 0 and rise != 0 else otherwise
