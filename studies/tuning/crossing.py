"""Two neighbouring values of a knob with opposite verdicts, and how they are found.

A margin is the log of a statistic over its limit; a slope is that of the margin over the log of the
knob. A bracket is closed where the log of its upper end over its lower one is at most the
tolerance; distances in brackets are multiples of the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from studies.tuning.engine import Point
from studies.tuning.knobs import Knob
from studies.tuning.settings import SearchSettings

LED_THERE = 0.3
"""Margin below which a scout is near enough to the crossing that no further one is sent."""

LARGEST_TELLING_MARGIN = 5.0
"""Margin from which its size no longer tells how far away the crossing is."""

SCOUT_LENGTH = 15
"""Length of a scout's run in shortest runs. One run tells as much as three runs of a third of this
length, and its parts tell the noise."""

MOST_SCOUTS = 6
"""Values at which scouts may run before the long runs begin."""

MOST_STEPS = 40
"""Values that the long runs may try before a crossing is given up."""

STEPS_BY_ROOT = 8
"""Long runs that follow the root of the margins; later ones halve what is left."""

LEAST_SLOPE = 0.5
"""Least slope that counts. The growth of the backlog beyond capacity has a slope of 1."""

SLOPE_CHANGE = 3.0
"""Factor by which the slope may change from one long run to the next."""

LEAST_STEP = 0.3
"""Distance of two values [brackets] from which their margins tell a slope."""

WANTED_SPREAD = 0.15
"""Standard deviation of a margin over replications [brackets times slope] that runs are made long
enough for: three or four replications then tell the two ends of a bracket apart."""

FIRST_REPLICATIONS = 5
"""Replications of a long run after which a verdict that is still open asks for longer runs."""

UNDECIDABLE = 0.25
"""Distance from the crossing [brackets] within which no run length would decide a verdict: other
ends are sought there instead of longer runs."""

LENGTHENING = 4
"""Factor by which runs become longer where a verdict stays open."""

END_DISTANCE = 0.45
"""Distance from the estimated crossing [brackets] at which the ends of its bracket are tried."""

FLUID_STEP = 0.02
"""Relative step either way over which the fluid model's slope is taken."""

MOST_DOUBLINGS = 11
"""Values tried, each twice as far away, where long runs at both ends agree with each other."""

SECANT_MARGIN = 2.0
"""Largest margin that counts, either way, for the line between two points."""

SECANT_EDGE = 0.1
"""Least share of a bracket that the line between its ends leaves on either side."""


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
        """Value at which the margin that is missed is 0, on the line between the two."""
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
    limits
        Values beyond which the knob cannot go.
    settings
        How far to narrow, and what a run may cost.
    measure
        From value, run length and most replications (None: all) to a point.
    expected
        Margin that the fluid model expects at a value; None where it has no answer.
    """

    knob: Knob
    limits: tuple[float, float]
    settings: SearchSettings
    measure: Callable[[float, int, int | None], Point]
    expected: Callable[[float], float | None]

    def find(self, low: Point, high: Point, guess: float | None) -> tuple[Crossing | None, int]:
        """Return the crossing between two points of opposite verdicts, and the run length.

        Parameters
        ----------
        low, high
            Scanned with short runs, the smaller value first.
        guess
            Value at which the fluid model sees the crossing.
        """
        sign = 1.0 if low.met else -1.0  # of the margin's slope
        low, high, at, slope = self._scouted(low, high, guess, sign)
        length = self._length(slope, at.noise)
        met, missed = (low, high) if low.met else (high, low)
        known: list[Point] = []
        root = math.log(at.value) - sign * at.margin / slope
        for step in range(MOST_STEPS):
            if self._is_closed(met, missed):
                ends = self._decided_ends(met, missed, slope, length)
                if ends is None:
                    length = self._longer(length)
                    continue
                met, missed = ends
                if met.met and not missed.met:
                    return Crossing(met, missed), length
                opened = self._reopened(met, missed, sign, length)
                if opened is None:
                    return None, length
                met, missed = opened
                root = 0.5 * (math.log(met.value) + math.log(missed.value))
                continue
            is_stuck = step >= STEPS_BY_ROOT
            value = self._candidate(met, missed, root, sign, halve=is_stuck)
            point = self.measure(value, length, None if is_stuck else FIRST_REPLICATIONS)
            is_certain = is_stuck or self._is_certain(point)
            on_crossing = self._is_on_crossing(point, slope)
            if not is_certain and not on_crossing:
                length = self._longer(length)
            if is_certain or (length == self.settings.most_requests and not on_crossing):
                met, missed = (point, missed) if point.met else (met, point)
            slope = self._updated_slope(slope, known, point)
            known.append(point)
            nearest = min(known, key=lambda each: abs(each.margin))
            root = math.log(nearest.value) - sign * nearest.margin / slope
        return None, length

    def _decided_ends(
        self, met: Point, missed: Point, slope: float, length: int
    ) -> tuple[Point, Point] | None:
        """Return both ends of a closed bracket by runs of one length.

        None where verdicts are open that longer runs would decide.
        """
        ends = [self.measure(each.value, length, FIRST_REPLICATIONS) for each in (met, missed)]
        if not all(map(self._is_certain, ends)):
            on_crossing = any(self._is_on_crossing(each, slope) for each in ends)
            if length < self.settings.most_requests and not on_crossing:
                return None
            ends = [self.measure(each.value, length, None) for each in ends]
        return ends[0], ends[1]

    def _scouted(
        self, low: Point, high: Point, guess: float | None, sign: float
    ) -> tuple[Point, Point, Point, float]:
        """Return the ends, the point nearest to the crossing, and the slope there."""
        value = _secant(low, high) if guess is None else guess
        at, slope = low, LEAST_SLOPE
        for _ in range(MOST_SCOUTS):
            value = self.knob.rounded(value)
            if not low.value < value < high.value:
                at = min((low, high), key=lambda each: abs(each.value - value))
                break
            at = self.measure(value, self._scout_length, 1)
            slope = self._expected_slope(value)
            if slope is None:
                slopes = [_slope(each, at, math.nan) for each in (low, high)]
                slope = max([s for s in slopes if math.isfinite(s)], default=LEAST_SLOPE)
            # A verdict that no run length decides is no end of a bracket, whatever three runs say.
            if self._is_certain(at) and not self._is_on_crossing(at, slope):
                low, high = (at, high) if at.met == low.met else (low, at)
            if abs(at.margin) < LED_THERE:
                break
            value = at.value * math.exp(-sign * at.margin / slope)
            is_far = abs(at.margin) > LARGEST_TELLING_MARGIN
            if is_far or not low.value < value < high.value:
                value = _secant(low, high)
        return low, high, at, slope

    @property
    def _scout_length(self) -> int:
        """Requests of a scout's run."""
        return min(SCOUT_LENGTH * self.settings.least_requests, self.settings.most_requests)

    def _expected_slope(self, value: float) -> float | None:
        """Return the size of the fluid margin's slope at a value; None where it has no answer."""
        least, most = self.limits
        near = (value * (1 - FLUID_STEP), value * (1 + FLUID_STEP))
        low, high = (self.knob.rounded(min(max(each, least), most)) for each in near)
        at_low, at_high = self.expected(low), self.expected(high)
        if at_low is None or at_high is None or low == high:
            return None
        slope = abs(at_high - at_low) / math.log(high / low)
        return slope if math.isfinite(slope) and slope > LEAST_SLOPE else None

    def _updated_slope(self, slope: float, known: list[Point], point: Point) -> float:
        """Return the slope as the last two long runs tell it, where they are far enough apart."""
        if not known:
            return slope
        step = abs(math.log(point.value / known[-1].value))
        if step <= LEAST_STEP * self.settings.tolerance:
            return slope
        seen = _slope(known[-1], point, slope)
        return min(max(seen, slope / SLOPE_CHANGE), SLOPE_CHANGE * slope)

    def _length(self, slope: float, spread: float) -> int:
        """Return a run length at which the verdicts at both ends are certain with few runs."""
        if not math.isfinite(spread):
            return self._scout_length
        allowed = WANTED_SPREAD * self.settings.tolerance * slope
        wanted = self._scout_length * (spread / allowed) ** 2
        return int(min(max(wanted, self._scout_length), self.settings.most_requests))

    def _longer(self, length: int) -> int:
        return min(LENGTHENING * length, self.settings.most_requests)

    def _is_certain(self, point: Point) -> bool:
        return point.certain(self.settings.confidence)

    def _is_on_crossing(self, point: Point, slope: float) -> bool:
        """Return whether a point is too near to the crossing for any run length."""
        return abs(point.margin) < UNDECIDABLE * self.settings.tolerance * slope

    def _is_closed(self, met: Point, missed: Point) -> bool:
        low, high = sorted((met.value, missed.value))
        if not self.knob.has_between(low, high):
            return True
        return math.log(high / low) <= self.settings.tolerance * (1 + 1e-9)

    def _candidate(
        self, met: Point, missed: Point, root: float, sign: float, *, halve: bool
    ) -> float:
        """Return the next value: half a bracket off the root, on the side that is less known."""
        a, b = math.log(met.value), math.log(missed.value)
        inside = min(a, b) < root < max(a, b)
        on_met_side = abs(root - a) > abs(b - root)
        u = root + (-sign if on_met_side else sign) * END_DISTANCE * self.settings.tolerance
        if halve or not inside or not min(a, b) < u < max(a, b):
            u = 0.5 * (a + b)
        low, high = sorted((met.value, missed.value))
        return self.knob.inside(math.exp(u), low, high)

    def _reopened(
        self, met: Point, missed: Point, sign: float, length: int
    ) -> tuple[Point, Point] | None:
        """Return opposite verdicts by long runs, where short ones had misled; None if not near."""
        up = met.met  # both met: the crossing is further on the missed side
        end = missed if up else met
        direction = sign if up else -sign
        for doubling in range(1, MOST_DOUBLINGS + 1):
            value = end.value * math.exp(direction * self.settings.tolerance * 2.0**doubling)
            value = self.knob.rounded(min(max(value, self.limits[0]), self.limits[1]))
            if value == end.value:  # whole numbers, or few values: the next is further away
                value = self.knob.next_to(value, upward=direction > 0)
            if value == end.value or not self.limits[0] <= value <= self.limits[1] or value <= 0:
                return None
            point = self.measure(value, length, None)
            if point.met != up:
                return (end, point) if up else (point, end)
            end = point
        return None


def _secant(low: Point, high: Point) -> float:
    """Return where the line between two points crosses 0, in logs."""
    a, b = (min(max(each.margin, -SECANT_MARGIN), SECANT_MARGIN) for each in (low, high))
    share = min(max(a / (a - b), SECANT_EDGE), 1 - SECANT_EDGE) if a != b else 0.5
    return low.value * (high.value / low.value) ** share


def _slope(one: Point, other: Point, otherwise: float) -> float:
    """Return the size of the slope of the margin between two points.

    Between points that different objectives bind, or far from any limit, it tells nothing.
    """
    run = math.log(other.value / one.value)
    rise = other.margin - one.margin
    is_far = max(abs(one.margin), abs(other.margin)) > LARGEST_TELLING_MARGIN
    if one.binding != other.binding or is_far:
        return otherwise
    return max(abs(rise / run), LEAST_SLOPE) if run != 0 and rise != 0 else otherwise
