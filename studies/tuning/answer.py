"""The answer to a search of one knob, and what it says as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ode.error_model.model import COVERS, UNKNOWN
from ode.error_model.report import percent_off
from studies.tuning.crossing import Crossing
from studies.tuning.engine import Point
from studies.tuning.fluid_answer import FluidAnswer, confidence_word
from studies.tuning.knobs import Knob
from studies.tuning.settings import SearchSettings
from studies.tuning.slo import Slo


@dataclass(frozen=True, slots=True)
class Tuning:
    """The answer, and how it was found.

    Parameters
    ----------
    knob
        What was turned.
    slos
        Objectives that were to be met.
    value
        The last value that meets the objectives; None where there is none.
    reason
        What the value is, or why there is none, in words.
    crossings
        Every crossing that was found, from the smallest value on.
    ranges
        Ranges of the knob in which the objectives are met, as far as was scanned.
    monotone
        Whether the scan saw at most one crossing, of the kind that the knob leads one to expect.
    fluid_value
        Value that the fluid model alone gives; None where it gives none.
    fluid
        Where the engine's value is expected by what the model expects of its own error.
    fluid_runs
        Values at which the fluid model was solved.
    engine_runs, engine_requests
        Replications that were run, and their requests.
    scanned
        Bracket in which the value was sought.
    points
        Everything that the engine measured.
    run_length
        Requests of each run at the crossings.
    settings
        What the search might spend, and how sure it had to be.
    warnings
        What a user should know.
    method
        Who answers: ``engine``, or ``stationary``.
    """

    knob: Knob
    slos: tuple[Slo, ...]
    value: float | None
    reason: str
    crossings: tuple[Crossing, ...]
    ranges: tuple[tuple[float, float], ...]
    monotone: bool
    fluid_value: float | None
    fluid: FluidAnswer
    fluid_runs: int
    engine_runs: int
    engine_requests: int
    scanned: tuple[float, float]
    points: tuple[Point, ...]
    run_length: int
    settings: SearchSettings
    warnings: tuple[str, ...]
    method: str = "engine"

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the value is expected: of the engine's runs, or of answers like the model's."""
        if self.method != "engine":
            return self.fluid.interval
        answer = self.answer
        is_line = answer is not None and not self.knob.values  # between few values there is none
        return answer.interval(self.settings.confidence) if answer and is_line else None

    @property
    def error(self) -> dict[str, Any]:
        """How far the value is expected to be from the one of endless runs, relative."""
        interval, by_engine = self.interval, self.method == "engine"
        covers = self.settings.confidence if by_engine else COVERS
        if interval is None or self.value is None or min(interval) <= 0:
            reason = self.fluid.reason if not by_engine else "the runs tell no interval"
            said = {"words": f"confidence unknown: {reason}", "low": None, "high": None}
            return {"confidence": UNKNOWN, "covers": covers, **said}
        low, high = (self.value / end - 1 for end in reversed(interval))
        word = confidence_word(max(abs(low), abs(high)))
        words = (
            f"confidence {word}: the value is {percent_off(low)} to {percent_off(high)} % off, "
            + (f"by the runs of the engine ({covers:.0%})" if by_engine
               else f"as {covers:.0%} of answers like this one are")
        )  # fmt: skip
        return {"confidence": word, "covers": covers, "words": words, "low": low, "high": high}

    @property
    def answer(self) -> Crossing | None:
        """The crossing whose met end is the value."""
        return next((c for c in self.crossings if c.met.value == self.value), None)

    @property
    def plain_runs(self) -> int:
        """Runs of a plain bisection of ``scanned`` to the same width."""
        if self.knob.values:
            low, high = self.scanned
            inside = sum(low <= each <= high for each in self.knob.values)
            return self.settings.replications * inside
        anchor = self.value if self.value is not None else self.scanned[0]
        width = max(self.settings.tolerance * anchor, float(self.knob.integer))
        return plain_bisection_runs(self.scanned, width, self.settings.replications)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the command prints it."""
        answer = self.answer
        is_line = answer is not None and not self.knob.values  # between few values there is none
        interval = self.interval
        return {
            "knob": self.knob.name,
            "method": self.method,
            "value": self.value,
            "reason": self.reason,
            "bracket": list(answer.bracket) if answer else None,
            "estimate": answer.estimate if answer and is_line else None,
            "confidence_interval": list(interval) if interval else None,
            "slo": [str(slo) for slo in self.slos],
            "measured": answer.met.values() if answer else None,
            "error": self.error,
            "fluid_value": self.fluid_value,
            "fluid": self.fluid.to_json(),
            "engine_runs": self.engine_runs,
            "fluid_runs": self.fluid_runs,
            "engine_runs_plain_bisection": self.plain_runs,
            "engine_requests": self.engine_requests,
            "monotone": self.monotone,
            "met_ranges": [list(each) for each in self.ranges],
            "crossings": [self._crossing_json(each) for each in self.crossings],
            "scanned": list(self.scanned),
            "tolerance": self.settings.tolerance,
            "confidence": self.settings.confidence if self.method == "engine" else COVERS,
            "replications": self.settings.replications,
            "run_length": self.run_length,
            "points": [self._point_json(each) for each in self.points],
            "warnings": list(self.warnings),
        }

    def _crossing_json(self, crossing: Crossing) -> dict[str, Any]:
        ends = (crossing.met, crossing.missed)
        interval = crossing.interval(self.settings.confidence)
        return {
            "bracket": list(crossing.bracket),
            "met": crossing.met.value,
            "missed": crossing.missed.value,
            "estimate": crossing.estimate,
            "confidence_interval": list(interval) if interval else None,
            "binding": crossing.missed.binding,
            "certain": all(end.certain(self.settings.confidence) for end in ends),
        }

    def _point_json(self, point: Point) -> dict[str, Any]:
        return {
            "value": point.value,
            "requests": point.requests,
            "replications": point.replications,
            "met": point.met,
            "certain": point.certain(self.settings.confidence),
            "binding": point.binding,
            "margin": point.margin,
            "measured": point.values(),
        }


def plain_bisection_runs(bracket: tuple[float, float], width: float, replications: int) -> int:
    """Return the runs of a bisection: all replications at both ends and at every midpoint."""
    steps = math.ceil(math.log2(max((bracket[1] - bracket[0]) / width, 1.0)))
    return replications * (2 + steps)


def met_ranges(
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
