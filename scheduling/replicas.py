"""The least number of instances that keeps objectives for given requests: guessed, then measured.

The fluid model of one instance guesses. Fleets of more or fewer instances are then run, in steps
that double, until one that meets the objectives and one that misses them are known; halving closes
in on two neighbours. What decides is measured alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.fleet_size import FleetSize, Measure, sized
from scheduling.sizing import Sizing, measured
from serving import ConfigError, FluidServeError, RequestTable, UnsupportedError
from studies.question import Question
from studies.tuning.engine import BACKLOG_GROWTH, MOST_GROWTH
from studies.tuning.screening import Screen
from workload import Workload

LARGEST = 4096
"""Most instances that are tried where nobody says how many."""

PIECES, PIECE_ARRIVALS = 60, 100
"""Pieces of a trace of which the busiest counts for the guess, and least arrivals of a piece."""

SPARE, LEAST_CHANGE = 0.5, 0.01
"""More instances stop being tried where those there could serve the arrivals at this load, and a
third more of them changes the margin by less than this."""


@dataclass(frozen=True, eq=False)
class Replicas:
    """The answer, and how it was found.

    Parameters
    ----------
    sizing
        What was asked.
    value
        Least number of instances that was measured to meet all objectives; None where there is
        none.
    reason
        What the value is, or why there is none, in words.
    guess
        What the fluid model of one instance guesses; None where it cannot.
    sizes
        Every number of instances that was run, the smallest first.
    warnings
        What a user should know.
    """

    sizing: Sizing
    value: int | None
    reason: str
    guess: int | None
    sizes: tuple[FleetSize, ...]
    warnings: tuple[str, ...]

    @property
    def answer(self) -> FleetSize | None:
        """The fleet of the value."""
        return next((size for size in self.sizes if size.replicas == self.value), None)

    @property
    def below(self) -> FleetSize | None:
        """The fleet of one instance less; None where there is none, or it was not run."""
        return next((s for s in self.sizes if self.value and s.replicas == self.value - 1), None)

    @property
    def confirmed(self) -> bool:
        """Whether the value was measured to meet the objectives, and one instance less to miss."""
        if self.answer is None or not self.answer.met:
            return False
        return self.value == 1 or (self.below is not None and not self.below.met)

    @property
    def certain(self) -> bool:
        """Whether both verdicts would most likely be the same of other draws, or another trace."""
        ends = [size for size in (self.answer, self.below) if size is not None]
        return self.confirmed and all(size.certain for size in ends)

    @property
    def runs(self) -> int:
        """Runs of a fleet."""
        return sum(len(size.rows) for size in self.sizes)

    @property
    def requests(self) -> int:
        """Requests of all runs."""
        return sum(row["requests"] for size in self.sizes for row in size.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the command prints it."""
        return {
            "knob": "replicas",
            "method": "engine",
            "policy": self.sizing.policy,
            "value": self.value,
            "reason": self.reason,
            "slo": [str(slo) for slo in self.sizing.slos],
            "confirmed": self.confirmed,
            "certain": self.certain,
            "confidence": self.sizing.confidence,
            "certainty_from": "blocks of the trace" if self.sizing.is_trace else "independent runs",
            "measured": None if self.answer is None else self.answer.values,
            "standard_error": None if self.answer is None else self.answer.errors,
            "measured_below": None if self.below is None else self.below.values,
            "fluid_value": self.guess,
            "engine_runs": self.runs,
            "engine_requests": self.requests,
            "sizes": [size.to_json() for size in self.sizes],
            "warnings": list(self.warnings),
        }


def least_replicas(
    sizing: Sizing,
    *,
    bracket: tuple[int, int] | None = None,
    measure: Measure | None = None,
    told: Callable[[str], None] | None = None,
) -> Replicas:
    """Find the least number of instances that meets the objectives, and confirm it.

    Parameters
    ----------
    sizing
        Requests, instance, objectives and policy.
    bracket
        Least and most instances that are tried; 1 to :data:`LARGEST` by default.
    measure
        Where rows of runs come from, :func:`scheduling.sizing.measured` by default.
    told
        Called with a word on progress.

    Raises
    ------
    ConfigError
        If the bracket is not allowed.
    """
    low, high = (1, LARGEST) if bracket is None else bracket
    if not (low == low // 1 and high == high // 1 and 1 <= low <= high):
        raise ConfigError("bracket", (low, high), "LOW:HIGH, whole numbers, 1 <= LOW <= HIGH")
    search = _Search(sizing, measure or partial(measured, sizing), told)
    guess, problem = guessed(sizing)
    value, reason = search.run(int(low), int(high), guess)
    warnings = (f"the fluid model could not guess: {problem}",) if problem else ()
    answer = Replicas(
        sizing, value, reason, guess,
        tuple(search.sizes[n] for n in sorted(search.sizes)), warnings,
    )  # fmt: skip
    return _with_doubts(answer)


def _with_doubts(answer: Replicas) -> Replicas:
    """Return the answer with a warning where its verdicts might be others of other draws."""
    said = []
    if answer.confirmed and not answer.certain:
        ends = [s for s in (answer.answer, answer.below) if s is not None and not s.certain]
        verdict = "the verdict on " + " and ".join(_instances(size.replicas) for size in ends)
        sure = f"is not certain at {100 * answer.sizing.confidence:g} %"
        said = [
            f"for another trace like this one {verdict} {sure}, by {ends[0].binding}"
            if answer.sizing.is_trace
            else f"{verdict} {sure} after {len(ends[0].rows)} runs; see interval"
        ]
    asked = sum(row["predictions"] for size in answer.sizes for row in size.rows)
    failed = sum(row["failed_predictions"] for size in answer.sizes for row in size.rows)
    if failed:
        said.append(f"{failed} of {asked} predictions failed; these instances came last")
    return replace(answer, warnings=(*answer.warnings, *said)) if said else answer


class _Search:
    """Runs fleets and remembers them."""

    def __init__(
        self, sizing: Sizing, measure: Measure, told: Callable[[str], None] | None
    ) -> None:
        self.sizing, self._measure, self._told = sizing, measure, told
        self.sizes: dict[int, FleetSize] = {}

    def size(self, replicas: int) -> FleetSize:
        if replicas not in self.sizes:
            if self._told is not None:
                self._told(f"running {_instances(replicas)} ...")
            self.sizes[replicas] = sized(self.sizing, replicas, self._measure)
        return self.sizes[replicas]

    def run(self, low: int, high: int, guess: int | None) -> tuple[int | None, str]:
        """Return the least number from ``low`` to ``high`` that meets all, and words on it."""
        start = min(max(1 if guess is None else guess, low), high)
        if self.size(start).met:
            met, missed = self._down(start, low)
        else:
            met, missed = self._up(start, high)
        if met is None:
            return None, self._impossible(low)
        while missed is not None and met - missed > 1:
            middle = (met + missed) // 2
            if self.size(middle).met:
                met = middle
            else:
                missed = middle
        return met, self._words(met, missed)

    def _down(self, met: int, low: int) -> tuple[int, int | None]:
        step = 1
        while met > low:
            next_one = max(low, met - step)
            if not self.size(next_one).met:
                return met, next_one
            met, step = next_one, 2 * step
        return met, None

    def _up(self, missed: int, high: int) -> tuple[int | None, int]:
        step = 1
        while missed < high:
            next_one = min(high, missed + step)
            if self.size(next_one).met:
                return next_one, missed
            if self._is_pointless(missed, next_one):
                return None, next_one
            missed, step = next_one, 2 * step
        return None, missed

    def _is_pointless(self, fewer: int, more: int) -> bool:
        """Return whether further instances would change nothing: there is room, and it is no help.

        Where capacity is short a latency can stay the same, such as the TPOT of a full batch.
        """
        a, b = self.size(fewer), self.size(more)
        load = self.sizing.question.load / fewer
        if not load < SPARE or 3 * more < 4 * fewer:
            return False
        name = b.binding
        return name != BACKLOG_GROWTH and abs(b.margins[name] - a.margins[name]) < LEAST_CHANGE

    def _impossible(self, low: int) -> str:
        best = min(self.sizes.values(), key=lambda size: max(size.margins.values()))
        misses = " and ".join(name for name, margin in best.margins.items() if margin > 0)
        return (
            f"impossible: no number of instances from {low} to {max(self.sizes)} meets "
            f"{self._objectives()}; nearest: {_told(best)} with {_instances(best.replicas)}, which "
            f"misses {misses}"
        )

    def _words(self, met: int, missed: int | None) -> str:
        verb = "meets" if met == 1 else "meet"
        here = f"{_instances(met)} with {self.sizing.policy} {verb} {self._objectives()}"
        if missed is not None:
            size, verb = self.sizes[missed], "misses" if missed == 1 else "miss"
            return f"{here}; {missed} {verb}: {_told(size)}"
        if met == 1:
            return f"{here}; there is no smaller fleet"
        return f"{here}; fewer were not to be tried"

    def _objectives(self) -> str:
        return " and ".join(map(str, self.sizing.slos)) or f"{BACKLOG_GROWTH}<{MOST_GROWTH:g}"


def _instances(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"


def _told(size: FleetSize) -> str:
    """Return what was measured; the growth of a backlog only where it is what counts."""
    shown = size.values
    if len(shown) > 1 and size.binding != BACKLOG_GROWTH:
        shown.pop(BACKLOG_GROWTH, None)
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def guessed(sizing: Sizing) -> tuple[int | None, str]:
    """Return the instances that the fluid model of one of them asks for, or None and why it cannot.

    Each instance gets its share of the arrivals, those of the busiest part of a trace, as a Poisson
    stream. That is a guess of where to look.
    """
    question = sizing.question
    if isinstance(question.source, RequestTable):
        rate = busiest_rate(question.source.arrival_time)
        if not 0 < rate < math.inf:
            return None, "the requests of the file come at one time"
        stream = Workload(question.mix, rate)
    else:
        stream = question.stream
    alone = Question(stream, question.instance, seed=question.seed)
    screen = Screen(lambda replicas: alone.at_rate(stream.rate / replicas), sizing.slos)

    def misses(replicas: int) -> bool:
        margin = screen.margin(replicas)
        if margin is None:
            raise UnsupportedError(screen.problem or "it has no answer")
        return margin > 0

    missed, met = 0, 1
    try:
        while misses(met):
            if met >= LARGEST:
                return None, "by it no number of instances meets the objectives"
            missed, met = met, 2 * met
        while met - missed > 1:
            middle = (met + missed) // 2
            missed, met = (middle, met) if misses(middle) else (missed, middle)
    except FluidServeError as error:
        return None, str(error)
    return met, ""


def busiest_rate(arrival: NDArray[np.float64]) -> float:
    """Return the arrival rate of the busiest piece of a trace [requests/time]."""
    pieces = max(1, min(PIECES, arrival.size // PIECE_ARRIVALS))
    lasts = float(np.ptp(arrival)) / pieces
    return float(np.histogram(arrival, pieces)[0].max()) / lasts if lasts > 0 else math.inf
