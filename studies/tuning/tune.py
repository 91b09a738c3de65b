"""Where an objective stops being met: scanned, then narrowed by the engine, led by the fluid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving import ConfigError
from studies.tuning.crossing import Crossing, CrossingSearch
from studies.tuning.engine import Point, measure
from studies.tuning.knobs import Knob, Operation, knob_named
from studies.tuning.screening import Predictor, Screen
from studies.tuning.slo import Slo

LEAST_REQUESTS = 20_000
"""Of any run: latencies of shorter ones say little about a steady state."""

MOST_REQUESTS = 1_000_000
REPLICATIONS = 16
CONFIDENCE = 0.95
TOLERANCE = 0.01
SCAN = 4
FLUID_SCAN = 24

SCAN_REPLICATIONS = 3
EXPANSIONS = 6
LEAST_CHANGE = 0.01
"""Of a margin, below which it is not worth going on beyond the bracket."""

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """The answer, and how it was found.

    Parameters
    ----------
    knob, slos
        What was turned, and until what.
    value
        The last value that meets the objectives; None where there is none.
    reason
        What the value is, or why there is none, in words.
    crossings
        Every one that was found, from the smallest value on.
    ranges
        Ranges of the knob in which the objectives are met, as far as was scanned.
    monotone
        Whether the scan saw at most one crossing, of the kind that the knob leads one to expect.
    fluid_value, fluid_runs
        What the fluid model says alone, and how many solutions it took.
    engine_runs, engine_requests
        Replications that were run, and their requests.
    plain_runs
        Runs of a bisection with all replications at both ends of ``scanned`` and every midpoint
        down to the same width.
    scanned
        Bracket in which it was sought.
    points
        Everything that the engine measured.
    run_length
        Requests of each run at the crossings.
    tolerance, confidence, replications
        As asked for.
    warnings
        What a user should know.
    """

    knob: Knob
    slos: tuple[Slo, ...]
    value: float | None
    reason: str
    crossings: tuple[Crossing, ...]
    ranges: tuple[tuple[float, float], ...]
    monotone: bool
    fluid_value: float | None
    fluid_runs: int
    engine_runs: int
    engine_requests: int
    plain_runs: int
    scanned: tuple[float, float]
    points: tuple[Point, ...]
    run_length: int
    tolerance: float
    confidence: float
    replications: int
    warnings: tuple[str, ...]

    @property
    def answer(self) -> Crossing | None:
        """The crossing whose met end is the value."""
        return next((c for c in self.crossings if c.met.value == self.value), None)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the command prints it."""
        answer = self.answer
        interval = answer.interval(self.confidence) if answer else None
        return {
            "knob": self.knob.name,
            "value": self.value,
            "reason": self.reason,
            "bracket": list(answer.bracket) if answer else None,
            "estimate": answer.estimate if answer else None,
            "confidence_interval": list(interval) if interval else None,
            "slo": [str(slo) for slo in self.slos],
            "measured": answer.met.values() if answer else None,
            "fluid_value": self.fluid_value,
            "engine_runs": self.engine_runs,
            "fluid_runs": self.fluid_runs,
            "engine_runs_plain_bisection": self.plain_runs,
            "engine_requests": self.engine_requests,
            "monotone": self.monotone,
            "met_ranges": [list(each) for each in self.ranges],
            "crossings": [self._crossing_json(each) for each in self.crossings],
            "scanned": list(self.scanned),
            "tolerance": self.tolerance,
            "confidence": self.confidence,
            "replications": self.replications,
            "run_length": self.run_length,
            "points": [self._point_json(each) for each in self.points],
            "warnings": list(self.warnings),
        }

    def _crossing_json(self, crossing: Crossing) -> dict[str, Any]:
        ends = (crossing.met, crossing.missed)
        interval = crossing.interval(self.confidence)
        return {
            "bracket": list(crossing.bracket),
            "met": crossing.met.value,
            "missed": crossing.missed.value,
            "estimate": crossing.estimate,
            "confidence_interval": list(interval) if interval else None,
            "binding": crossing.missed.binding,
            "certain": all(end.certain(self.confidence) for end in ends),
        }

    def _point_json(self, point: Point) -> dict[str, Any]:
        return {
            "value": point.value,
            "requests": point.requests,
            "replications": point.replications,
            "met": point.met,
            "certain": point.certain(self.confidence),
            "binding": point.binding,
            "margin": point.margin,
            "measured": point.values(),
        }


def tune(
    knob: str | Knob,
    operation: Operation,
    slos: Sequence[Slo] = (),
    *,
    bracket: tuple[float, float] | None = None,
    tolerance: float = TOLERANCE,
    replications: int = REPLICATIONS,
    confidence: float = CONFIDENCE,
    scan: int = SCAN,
    least_requests: int = LEAST_REQUESTS,
    most_requests: int = MOST_REQUESTS,
    seed: int = 42,
    predictor: Predictor | None = None,
    told: Told | None = None,
) -> Tuning:
    """Find the value of a knob at which objectives stop being met, in steady state.

    An operation meets its objectives if its backlog does not grow and every statistic, averaged
    over replications, is at most its limit; without objectives it is enough to keep up.

    Parameters
    ----------
    knob
        Its name, or one of your own.
    operation
        Workload and instance.
    slos
        Objectives, all of which are to be met.
    bracket
        Where to look; the knob's own by default.
    tolerance
        Relative width of the final bracket (a whole-number knob: at least 1).
    replications
        Most per point. A point is left as soon as its verdict is certain.
    confidence
        Of a verdict.
    scan
        Points of the engine's scan of the bracket, its ends included.
    least_requests, most_requests
        Of a run. It grows until the verdict half a bracket away from the crossing is certain
        with few replications.
    seed
        Of the draws, which are common to all points.
    predictor
        Fluid model that scouts; the best there is by default. It may be wrong.
    told
        Called with a word on progress.

    Raises
    ------
    ConfigError
        For an option that is not allowed, or a workload without a steady state.
    """
    knob = knob_named(knob) if isinstance(knob, str) else knob
    operation.check_steady()
    for name, value, good, allowed in (
        ("tolerance", tolerance, 0 < tolerance < 1, "a number > 0 and < 1"),
        ("confidence", confidence, 0.5 <= confidence < 1, "a number >= 0.5 and < 1"),
        ("replications", replications, replications >= 3, "a whole number >= 3"),
        ("scan", scan, scan >= 2, "a whole number >= 2"),
        ("run_length", least_requests, least_requests >= 100, "a whole number >= 100"),
    ):
        if not good:
            raise ConfigError(name, value, allowed)
    search = _Search(
        knob, operation, tuple(slos), tolerance, replications, confidence,
        least_requests, max(most_requests, least_requests), seed,
        Screen(lambda value: knob.turned(operation, value), slos, predictor), told,
    )  # fmt: skip
    return search.run(check_bracket(knob, operation, bracket), scan, widen=bracket is None)


def check_bracket(
    knob: Knob, operation: Operation, bracket: tuple[float, float] | None
) -> tuple[float, float]:
    """Return a bracket, the knob's own where None is given.

    Raises
    ------
    ConfigError
        If it is none, or leaves the limits of the knob.
    """
    low, high = knob.bracket(operation) if bracket is None else bracket
    least, most = knob.limits(operation)
    low, high = knob.rounded(low), knob.rounded(high)
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ConfigError("bracket", (low, high), "two finite numbers with 0 < LOW < HIGH")
    if low < least or high > most:
        raise ConfigError("bracket", (low, high), f"numbers from {least:g} to {most:g}")
    return low, high


def plain_bisection_runs(bracket: tuple[float, float], width: float, replications: int) -> int:
    """Return the runs of a bisection: all replications at both ends and at every midpoint."""
    steps = math.ceil(math.log2(max((bracket[1] - bracket[0]) / width, 1.0)))
    return replications * (2 + steps)


@dataclass(slots=True)
class _Search:
    """One search: what it may spend, what it has measured."""

    knob: Knob
    operation: Operation
    slos: tuple[Slo, ...]
    tolerance: float
    replications: int
    confidence: float
    least: int
    most: int
    seed: int
    screen: Screen
    told: Told | None
    points: dict[tuple[float, int], Point] = field(default_factory=dict)
    runs: int = 0
    simulated: int = 0
    warnings: list[str] = field(default_factory=list)

    def run(self, bracket: tuple[float, float], scan: int, *, widen: bool) -> Tuning:
        """Scan, narrow every change of verdict, and answer."""
        edges = self._fluid_edges(bracket)
        points = [self.scanned(x) for x in self._scan_values(bracket, scan, edges)]
        if widen:
            points = self._widened(points)
        finder = CrossingSearch(
            self.knob, self.point, self.screen.margin,
            lambda point: point.certain(self.confidence),
            self.tolerance, self.least, self.most, self.knob.limits(self.operation),
        )  # fmt: skip
        crossings, length = [], self.least
        for low, high in itertools.pairwise(points):
            if low.met == high.met:
                continue
            inside = [x for x in edges if low.value < x < high.value]
            crossing, used = finder.find(low, high, inside[0] if inside else None)
            length = max(length, used)
            if crossing is None:
                self.warnings.append(
                    f"short runs change their verdict between {low.value:.6g} and "
                    f"{high.value:.6g}, runs of {used:,} requests do not"
                )
            else:
                crossings.append(crossing)
        return self._answer(points, crossings, edges, length)

    def point(self, value: float, requests: int, most: int | None = None) -> Point:
        """Return a point with as many replications as its verdict takes, up to ``most``."""
        point = self.points.setdefault((value, requests), Point(value, requests))
        most = self.replications if most is None else most
        operation = None
        while point.replications < most and not (
            point.replications and point.certain(self.confidence)
        ):
            operation = operation or self.knob.turned(self.operation, value)
            if self.told is not None:
                self.told(
                    f"{self.knob.name} {value:.6g}: replication {point.replications + 1} of "
                    f"{requests:,} requests"
                )
            point.measurements.append(
                measure(operation, self.slos, requests, point.replications, self.seed)
            )
            self.runs += 1
            self.simulated += requests
        return point

    def scanned(self, value: float) -> Point:
        """Return a point by few short runs: its verdict may be wrong near a crossing only.

        One is enough where the fluid model agrees with it.
        """
        point, expected = self.point(value, self.least, 1), self.screen.margin(value)
        if expected is not None and point.met == (expected <= 0):
            return point
        return self.point(value, self.least, SCAN_REPLICATIONS)

    def _fluid_edges(self, bracket: tuple[float, float]) -> list[float]:
        """Return the values at which the fluid verdict changes, each bisected."""
        margins = [(x, self.screen.margin(x)) for x in self._spaced(bracket, FLUID_SCAN)]
        known = [(x, margin) for x, margin in margins if margin is not None]
        if self.screen.problem is not None:
            self.warnings.append(f"the fluid model could not scout: {self.screen.problem}")
        return [
            self._fluid_edge(a, b, met_below=m_a <= 0)
            for (a, m_a), (b, m_b) in itertools.pairwise(known)
            if (m_a <= 0) != (m_b <= 0)
        ]

    def _fluid_edge(self, low: float, high: float, *, met_below: bool) -> float:
        while math.log(high / low) > 0.1 * self.tolerance:
            middle = self.knob.rounded(math.sqrt(low * high))
            margin = self.screen.margin(middle) if low < middle < high else None
            if margin is None:
                break
            low, high = (middle, high) if (margin <= 0) == met_below else (low, middle)
        return low if met_below else high

    def _spaced(self, bracket: tuple[float, float], count: int) -> list[float]:
        spaced = np.geomspace if self.knob.spacing == "log" else np.linspace
        inner = [self.knob.rounded(x) for x in spaced(*bracket, count)[1:-1]]
        return sorted({bracket[0], *inner, bracket[1]})

    def _scan_values(
        self, bracket: tuple[float, float], scan: int, edges: list[float]
    ) -> list[float]:
        """Return values to scan: even, and one in every part that the fluid sees between them."""
        values = set(self._spaced(bracket, scan))
        for low, high in itertools.pairwise([bracket[0], *edges, bracket[1]]):
            middle = self.knob.rounded(math.sqrt(low * high))
            if not any(low < x < high or (x in bracket and low <= x <= high) for x in values):
                values.add(middle)
        return sorted(x for x in values if bracket[0] <= x <= bracket[1])

    def _widened(self, points: list[Point]) -> list[Point]:
        """Return the scan, continued where all of it meets or all of it misses the objectives."""
        least, most = self.knob.limits(self.operation)
        for _ in range(EXPANSIONS):
            met = {point.met for point in points}
            if len(met) > 1:
                break
            up = (self.knob.better == "larger") == met.pop()
            value = 1.5 * points[-1].value if up else points[0].value / 4
            value = self.knob.rounded(min(max(value, least), most))
            if value <= 0 or any(value == point.value for point in points):
                break
            nearest = points[-1 if up else 0].margin
            points = sorted([*points, self.scanned(value)], key=lambda p: p.value)
            if abs(points[-1 if up else 0].margin - nearest) < LEAST_CHANGE:
                break
        return points

    def _answer(
        self, points: list[Point], crossings: list[Crossing], edges: list[float], length: int
    ) -> Tuning:
        larger = self.knob.better == "larger"
        scanned = (points[0].value, points[-1].value)
        ranges = _ranges(points, crossings, scanned)
        expected = len(crossings) <= 1 and all(
            (c.met.value < c.missed.value) == larger for c in crossings
        )
        value, reason = self._value(points, crossings, ranges)
        if not expected:
            self.warnings.append(
                "not monotone: the objectives are met in "
                + " and in ".join(f"[{a:.6g}, {b:.6g}]" for a, b in ranges)
                + " of what was scanned"
            )
        if any(not end.certain(self.confidence)
               for c in crossings for end in (c.met, c.missed)):  # fmt: skip
            self.warnings.append(
                f"with {self.replications} runs of {length:,} requests a verdict at an end of the "
                f"bracket is not certain at {self.confidence:g}; see confidence_interval"
            )
        anchor = value if value is not None else scanned[0]
        return Tuning(
            knob=self.knob,
            slos=self.slos,
            value=value,
            reason=reason,
            crossings=tuple(crossings),
            ranges=tuple(ranges),
            monotone=expected,
            fluid_value=self._fluid_value(edges, scanned),
            fluid_runs=self.screen.runs,
            engine_runs=self.runs,
            engine_requests=self.simulated,
            plain_runs=plain_bisection_runs(
                scanned, max(self.tolerance * anchor, float(self.knob.integer)), self.replications
            ),
            scanned=scanned,
            points=tuple(self.points[key] for key in sorted(self.points)),
            run_length=length,
            tolerance=self.tolerance,
            confidence=self.confidence,
            replications=self.replications,
            warnings=tuple(self.warnings),
        )

    def _value(
        self, points: list[Point], crossings: list[Crossing], ranges: list[tuple[float, float]]
    ) -> tuple[float | None, str]:
        larger = self.knob.better == "larger"
        wanted = " and ".join(map(str, self.slos)) or "a backlog that does not grow"
        if not ranges:
            best = min(points, key=lambda p: p.margin)
            got = ", ".join(
                f"{name} {value:.4g}" for name, value in best.values().items()
                if math.isfinite(value)
            )  # fmt: skip
            return None, (
                f"impossible: no {self.knob.name} from {points[0].value:.6g} to "
                f"{points[-1].value:.6g} meets {wanted}; nearest: {got} at {best.value:.6g}"
            )
        # A rate is safe only if every lower one is; other knobs are set once and stay.
        chosen = ranges[0] if larger and self.knob.safe_below else ranges[-1 if larger else 0]
        value = chosen[1] if larger else chosen[0]
        which = "largest" if larger else "smallest"
        if not any(crossing.met.value == value for crossing in crossings):
            return value, f"{wanted} is met up to the end of the bracket that was searched"
        return value, f"{which} {self.knob.name} found to meet {wanted}"

    def _fluid_value(self, edges: list[float], scanned: tuple[float, float]) -> float | None:
        larger = self.knob.better == "larger"
        inside = [x for x in edges if scanned[0] <= x <= scanned[1]]
        if not inside:
            return None
        return inside[0] if larger and self.knob.safe_below else inside[-1 if larger else 0]


def _ranges(
    points: list[Point], crossings: list[Crossing], scanned: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the ranges between the ends of the scan in which objectives are met."""
    ranges, begin = [], scanned[0] if points[0].met else None
    for crossing in sorted(crossings, key=lambda c: c.bracket):
        if crossing.met.value > crossing.missed.value:
            begin = crossing.met.value
        elif begin is not None:
            ranges.append((begin, crossing.met.value))
            begin = None
    if begin is not None and points[-1].met:
        ranges.append((begin, scanned[1]))
    return ranges
