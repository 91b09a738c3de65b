"""Where an objective stops being met: scanned, then narrowed by the engine, led by the fluid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ode.error_model.model import COVERS
from serving import ConfigError, check_defined, kind_of
from studies.question import Question
from studies.tuning.answer import Tuning, met_ranges
from studies.tuning.crossing import Crossing, CrossingSearch
from studies.tuning.engine import Point, measure
from studies.tuning.fluid_answer import FluidAnswer, edge_between, fluid_answer
from studies.tuning.hazards import hazards
from studies.tuning.knobs import Knob, bracket_of, knob_named
from studies.tuning.length import deciding_length, least_length, too_long, turnover
from studies.tuning.screening import Predictor, Screen
from studies.tuning.settings import SearchSettings
from studies.tuning.slo import Slo

METHODS = (AUTO, STATIONARY, ENGINE) = ("auto", "stationary", "engine")
"""Who may answer."""

FLUID_SCAN = 24
"""Values of a bracket at which the fluid model looks first."""

FLUID_TOLERANCE = 0.1
"""Width to which a fluid crossing is bisected, as a share of the tolerance."""

SCAN_REPLICATIONS = 3
"""Most runs at a scanned value, where the first and the fluid model disagree."""

MOST_EXPANSIONS = 6
"""Values by which a bracket of the knob's own may be widened."""

UPWARD = 1.5
"""Factor from the upper end of a bracket to the value that widens it."""

DOWNWARD = 0.25
"""Factor from the lower end of a bracket to the value that widens it."""

LEAST_CHANGE = 0.01
"""Change of a margin (log of a statistic over its limit) below which widening stops."""

Told = Callable[[str], None]
"""What is called with a word on progress."""

T = TypeVar("T")


def tune(
    knob: str | Knob,
    question: Question,
    slos: Sequence[Slo] = (),
    *,
    bracket: tuple[float, float] | None = None,
    settings: SearchSettings | None = None,
    predictor: Predictor | None = None,
    method: str = AUTO,
    within: float | None = None,
    told: Told | None = None,
) -> Tuning:
    """Find the value of a knob at which objectives stop being met, in steady state.

    A value meets the objectives if the backlog does not grow and every statistic, averaged over
    replications, is at most its limit; without objectives it is enough to keep up.

    Parameters
    ----------
    knob
        Name of a knob of the question's instance, or a knob of one's own.
    question
        Steady stream and instance. The search sets the length of its runs; the draws of the
        question's seed are common to all values.
    slos
        Objectives, all of which are to be met.
    bracket
        Two values to look between; by default the knob's own, which may be widened. A bracket is
        needed for ``max-rate`` where no fluid model reads the instance.
    settings
        What the search may spend, and how precise and how sure it has to be.
    predictor
        Fluid model that scouts; the best there is by default. It may be wrong.
    method
        Who answers: ``engine``; ``stationary``, the model of one node in equilibrium; or ``auto``,
        the model where its value is expected to be within ``within`` of the engine's, else the
        engine.
    within
        How far off the value may be, relative, with the chance of the intervals; the tolerance by
        default.
    told
        Called with a word on progress.

    Raises
    ------
    ConfigError
        For a method, a knob or a bracket that is not allowed, a stream without a steady state, or
        runs too short for a node of this size.
    UnsupportedError
        If the question is about a file, or an objective about a latency that no request has.
    SolveError
        If no request of a run happens to have it.
    """
    if method not in METHODS:
        raise ConfigError("method", method, " | ".join(METHODS))
    if within is not None and not 0 < within < math.inf:
        raise ConfigError("within", within, "a finite number > 0")
    question.stream.check_steady()
    check_defined((slo.latency for slo in slos), question.mix.longest_decode)
    settings = SearchSettings() if settings is None else settings
    chosen = knob_named(knob, kind_of(question.instance)) if isinstance(knob, str) else knob
    between = bracket_of(chosen, question, bracket)
    settings = _long_enough(settings, turnover(chosen.turned(question, x) for x in between))
    screen = Screen(lambda value: chosen.turned(question, value), slos, predictor)
    search = _Search(chosen, question, tuple(slos), settings, screen, told)
    within = settings.tolerance if within is None else within
    return search.run(between, widen=bracket is None, method=method, within=within)


def _long_enough(settings: SearchSettings, of_node: float) -> SearchSettings:
    """Return settings whose runs are long enough for a node of so large a turnover [requests].

    Raises
    ------
    ConfigError
        If the longest run allowed is not.
    """
    if settings.most_requests < deciding_length(of_node):
        raise ConfigError("most_requests", settings.most_requests, too_long(of_node))
    return replace(settings, least_requests=least_length(of_node, settings.least_requests))


@dataclass(slots=True)
class _Search:
    """One search: what it was asked, what it has measured and what it has spent."""

    knob: Knob
    question: Question
    slos: tuple[Slo, ...]
    settings: SearchSettings
    screen: Screen
    told: Told | None
    points: dict[tuple[float, int], Point] = field(default_factory=dict)
    runs: int = 0
    simulated: int = 0
    warnings: list[str] = field(default_factory=list)
    fluid: FluidAnswer = field(default_factory=FluidAnswer)

    def run(
        self, bracket: tuple[float, float], *, widen: bool, method: str, within: float
    ) -> Tuning:
        """Answer by the model where it is near enough; else scan and narrow what changes."""
        edges = self._fluid_edges(bracket)
        self.fluid = fluid_answer(self.screen, self.knob, edges, bracket, self._fluid_width)
        is_near = self.fluid.bound <= within
        if method == STATIONARY or (method == AUTO and is_near):
            return self._by_the_model(bracket, edges, self.fluid)
        points = [self.scanned(x) for x in self._scan_values(bracket, edges)]
        if widen:
            points = self._widened(points)
        limits = self.knob.limits(self.question)
        finder = CrossingSearch(self.knob, limits, self.settings, self.point, self.screen.margin)
        crossings, length = [], self.settings.least_requests
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

    @property
    def _fluid_width(self) -> float:
        """Width of a crossing of the fluid model, as a ratio."""
        return FLUID_TOLERANCE * self.settings.tolerance

    def _by_the_model(
        self, bracket: tuple[float, float], edges: list[float], fluid: FluidAnswer
    ) -> Tuning:
        """Return the answer of the model alone, nothing measured."""
        value, reason = None, f"the fluid model has no answer: {fluid.reason}"
        if fluid.middle is not None and fluid.interval is not None:
            value = self.knob.rounded(fluid.middle)
            low, high = fluid.interval
            which = "largest" if self.knob.better == "larger" else "smallest"
            reason = (
                f"{which} {self.knob.name} that is expected to meet "
                f"{' and '.join(map(str, self.slos))}: of answers like this one {COVERS:.0%} are "
                f"between {low:.6g} and {high:.6g}; nothing was simulated"
            )
            self.warnings += [fluid.reason] if fluid.reason else []
            self.warnings += hazards(self.knob.turned(self.question, value), 0.0)
        ranges = ()
        if value is not None:
            is_below = self.knob.better == "larger"
            ranges = ((bracket[0], value) if is_below else (value, bracket[1]),)
        return Tuning(
            knob=self.knob, slos=self.slos, value=value, reason=reason, crossings=(),
            ranges=ranges, monotone=True, fluid_value=edges[0] if edges else None, fluid=fluid,
            fluid_runs=self.screen.runs, engine_runs=0, engine_requests=0, scanned=bracket,
            points=(), run_length=0, settings=self.settings, warnings=tuple(self.warnings),
            method=STATIONARY,
        )  # fmt: skip

    def point(self, value: float, requests: int, most: int | None = None) -> Point:
        """Return a point with as many replications as its verdict takes, up to ``most``."""
        point = self.points.setdefault((value, requests), Point(value, requests))
        most = self.settings.replications if most is None else most
        question = None
        while point.replications < most and not (
            point.replications and point.certain(self.settings.confidence)
        ):
            question = question or self.knob.turned(self.question, value)
            if self.told is not None:
                self.told(
                    f"{self.knob.name} {value:.6g}: replication {point.replications + 1} of "
                    f"{requests:,} requests"
                )
            found = measure(question, self.slos, requests, point.replications)
            point.measurements.append(found)
            self.runs += 1
            self.simulated += requests
        return point

    def scanned(self, value: float) -> Point:
        """Return a point by few short runs: its verdict may be wrong near a crossing only.

        One is enough where the fluid model agrees with it.
        """
        shortest = self.settings.least_requests
        point, expected = self.point(value, shortest, 1), self.screen.margin(value)
        if expected is not None and point.met == (expected <= 0):
            return point
        return self.point(value, shortest, SCAN_REPLICATIONS)

    def _fluid_edges(self, bracket: tuple[float, float]) -> list[float]:
        """Return the values at which the fluid verdict changes, each bisected."""
        margins = [(x, self.screen.margin(x)) for x in self.knob.spaced(bracket, FLUID_SCAN)]
        known = [(x, margin) for x, margin in margins if margin is not None]
        if self.screen.problem is not None:
            self.warnings.append(f"the fluid model could not scout: {self.screen.problem}")
        return [
            edge_between(
                self.screen.margin, self.knob, (a, b), met_below=m_a <= 0, width=self._fluid_width
            )
            for (a, m_a), (b, m_b) in itertools.pairwise(known)
            if (m_a <= 0) != (m_b <= 0)
        ]

    def _scan_values(self, bracket: tuple[float, float], edges: list[float]) -> list[float]:
        """Return values to scan: even, and one in every part that the fluid sees between them."""
        values = set(self.knob.spaced(bracket, self.settings.scan))
        for low, high in itertools.pairwise([bracket[0], *edges, bracket[1]]):
            middle = self.knob.rounded(math.sqrt(low * high))
            if not any(low < x < high or (x in bracket and low <= x <= high) for x in values):
                values.add(middle)
        return sorted(x for x in values if bracket[0] <= x <= bracket[1])

    def _widened(self, points: list[Point]) -> list[Point]:
        """Return the scan, continued where all of it meets or all of it misses the objectives."""
        least, most = self.knob.limits(self.question)
        for _ in range(MOST_EXPANSIONS):
            met = {point.met for point in points}
            if len(met) > 1:
                break
            up = (self.knob.better == "larger") == met.pop()
            value = UPWARD * points[-1].value if up else DOWNWARD * points[0].value
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
        """Return the answer to what was measured."""
        scanned = (points[0].value, points[-1].value)
        ranges = met_ranges(points, crossings, scanned)
        is_monotone = len(crossings) <= 1 and all(
            (c.met.value < c.missed.value) == (self.knob.better == "larger") for c in crossings
        )
        value, reason = self._value(points, crossings, ranges)
        self._warn(crossings, ranges, length, is_monotone=is_monotone)
        if value is not None:
            swapped = max(each.most_swapped for each in self.points.values() if each.value == value)
            self.warnings += hazards(self.knob.turned(self.question, value), swapped)
        inside = [x for x in edges if scanned[0] <= x <= scanned[1]]
        return Tuning(
            knob=self.knob,
            slos=self.slos,
            value=value,
            reason=reason,
            crossings=tuple(crossings),
            ranges=tuple(ranges),
            monotone=is_monotone,
            fluid_value=self._wanted(inside) if inside else None,
            fluid=self.fluid,
            fluid_runs=self.screen.runs,
            engine_runs=self.runs,
            engine_requests=self.simulated,
            scanned=scanned,
            points=tuple(self.points[key] for key in sorted(self.points)),
            run_length=length,
            settings=self.settings,
            warnings=tuple(self.warnings),
        )

    def _warn(
        self,
        crossings: list[Crossing],
        ranges: list[tuple[float, float]],
        length: int,
        *,
        is_monotone: bool,
    ) -> None:
        """Note what a user should know of the crossings."""
        if not is_monotone:
            self.warnings.append(
                "not monotone: the objectives are met in "
                + " and in ".join(f"[{a:.6g}, {b:.6g}]" for a, b in ranges)
                + " of what was scanned"
            )
        ends = [end for crossing in crossings for end in (crossing.met, crossing.missed)]
        confidence = self.settings.confidence
        if not all(end.certain(confidence) for end in ends):
            self.warnings.append(
                f"with {self.settings.replications} runs of {length:,} requests a verdict at an "
                f"end of the bracket is not certain at {confidence:g}; see confidence_interval"
            )

    def _value(
        self, points: list[Point], crossings: list[Crossing], ranges: list[tuple[float, float]]
    ) -> tuple[float | None, str]:
        """Return the value that was wanted and what it is, or None and why there is none."""
        objectives = " and ".join(map(str, self.slos)) or "a backlog that does not grow"
        if not ranges:
            best = min(points, key=lambda p: p.margin)
            known = {name: x for name, x in best.values().items() if math.isfinite(x)}
            got = ", ".join(f"{name} {x:.4g}" for name, x in known.items())
            return None, (
                f"impossible: no {self.knob.name} from {points[0].value:.6g} to "
                f"{points[-1].value:.6g} meets {objectives}; nearest: {got} at {best.value:.6g}"
            )
        low, high = self._wanted(ranges)
        value = high if self.knob.better == "larger" else low
        if not any(crossing.met.value == value for crossing in crossings):
            return value, f"{objectives} is met up to the end of the bracket that was searched"
        which = "largest" if self.knob.better == "larger" else "smallest"
        return value, f"{which} {self.knob.name} found to meet {objectives}"

    def _wanted(self, found: list[T]) -> T:
        """Return which of several, the smallest first, is the answer.

        A rate is safe only if every lower one is; other knobs are set once and stay.
        """
        takes_last = self.knob.better == "larger" and not self.knob.safe_below
        return found[-1 if takes_last else 0]
