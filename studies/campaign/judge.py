"""How far off answers were, and whether they had said so, from the rows of a campaign."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ode.error_model.model import Expected, expected, outside, size_class
from ode.error_model.report import DECIDING, ErrorReport
from ode.prompt_server.stationary import BIRTHS
from studies.automatic.answer import CANDIDATES, STEADY
from studies.automatic.asking import ENGINE
from studies.campaign.rows import NOISIEST, known_of
from studies.campaign.scenarios import has_new_lengths
from studies.campaign.truth import SURELY
from studies.choice import first_within

OFF, NOISES = 0.1, 4.0
"""Relative error, and standard errors of the engine, beyond both of which an answer is off."""

TRUSTED = 0.05
"""Bound [relative] up to which an answer is one to rely on."""

ORDERS: Mapping[str, tuple[str, ...]] = {
    "over_time": CANDIDATES,
    "steady": (*STEADY, BIRTHS),
}
"""Whom ``auto`` asks, by protocol, the cheapest first."""

LOADS = ((0.7, "load below .7"), (0.95, "load .7 to .95"), (1.05, "load .95 to 1.05"))
SCATTERS = ((0.8, "dispersion below .8"), (1.25, "dispersion .8 to 1.25"))
"""Classes of load and of dispersion: where each ends, and its words."""

Expecting = Callable[[str, str, str, Mapping[str, float]], Expected | None]
"""Says how far off a metric is expected to be, as :func:`ode.error_model.model.expected` does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric of an answer beside the engine's.

    Parameters
    ----------
    engine, protocol, method, metric
        Of what.
    size
        Number of the size class.
    regime
        Class of the scenario by kind of class: ``load``, ``dispersion``, ``shape``, ``limit``,
        ``lengths``. A class that the row does not tell is left out.
    error
        Natural logarithm of predicted over engine.
    noise
        Relative standard error of the engine.
    expected
        What the answer said of this error; None where it said nothing.
    confidence
        Of the answer as a whole.
    """

    engine: str
    protocol: str
    method: str
    metric: str
    size: int
    regime: Mapping[str, str]
    error: float
    noise: float
    expected: Expected | None
    confidence: str

    @property
    def relative(self) -> float:
        """How far off the answer is, relative to the engine, without its sign."""
        return abs(math.expm1(self.error))

    @property
    def off(self) -> bool:
        """Whether it is off by more than 10 % and more than chance explains."""
        return self.relative > OFF and abs(self.error) > NOISES * self.noise

    @property
    def trusted(self) -> bool:
        """Whether the answer claims to be within 5 %."""
        return self.expected is not None and self.expected.bound <= TRUSTED

    @property
    def outside(self) -> bool:
        """Whether the engine's mean is outside of the interval, its noise aside."""
        of = self.expected
        return of is None or abs(self.error - of.bias) > of.half_width

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the engine's mean, as noisy as that was measured."""
        if (of := self.expected) is None:
            return None
        return abs(self.error - of.bias) <= math.hypot(of.half_width, SURELY * self.noise)


def expectation(row: Mapping[str, Any], method: str, expecting: Expecting) -> ErrorReport:
    """Return what an answer of a row says of its own error."""
    answer = row["answers"].get(method)
    if answer is None or "failed" in answer:
        return ErrorReport(reason="no answer")
    known = known_of(row, answer)
    # saturated systems have one load, beyond those of the others
    if row["protocol"] in ORDERS and (reason := outside(known)) is not None:
        return ErrorReport(reason=reason)
    found = {name: expecting(row["engine"], method, name, known) for name in answer["values"]}
    return ErrorReport({name: of for name, of in found.items() if of is not None})


def verdicts_of(
    row: Mapping[str, Any], method: str, expecting: Expecting = expected
) -> dict[str, Verdict]:
    """Return the verdicts on an answer of a row by metric, those that the engine's noise allows."""
    answer = row["answers"].get(method)
    if answer is None or "failed" in answer:
        return {}
    report, regime = expectation(row, method, expecting), regime_of(row)
    found = {}
    for metric, value in answer["values"].items():
        true, noise = (row[name].get(metric) for name in ("truth", "standard_error"))
        if not value or not true or noise is None or min(value, true) <= 0 or noise > NOISIEST:
            continue
        found[metric] = Verdict(
            row["engine"], row["protocol"], method, metric, size_class(row["features"]["fit"]),
            regime, math.log(value / true), noise, report.errors.get(metric), report.confidence,
        )  # fmt: skip
    return found


def verdicts(rows: Iterable[Mapping[str, Any]], expecting: Expecting = expected) -> list[Verdict]:
    """Return the verdicts on every answer."""
    return [
        each
        for row in answered(rows)
        for method in row["answers"]
        for each in verdicts_of(row, method, expecting).values()
    ]


def answered(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of scenarios that could be run."""
    return [row for row in rows if "failed" not in row]


def regime_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the classes of a scenario by kind of class."""
    features = row["features"]
    shapes = {"": "steady state", "constant": "constant rate, empty start"}
    found = {
        "load": _class(features["load"], LOADS, "load above 1.05"),
        "dispersion": _class(features["dispersion"], SCATTERS, "dispersion above 1.25"),
        "shape": shapes.get(row["shape"], "changing rate"),
        "lengths": "lengths of no fit" if has_new_lengths(row["family"]) else "lengths as fitted",
    }
    return found | ({"limit": row["limit"]} if row.get("limit") else {})


def _class(value: float, classes: Sequence[tuple[float, str]], beyond: str) -> str:
    return next((words for end, words in classes if value < end), beyond)


@dataclass(frozen=True, slots=True)
class Summary:
    """Some verdicts in numbers.

    Parameters
    ----------
    cases
        How many.
    off
        Part that is off.
    trusted, trusted_and_off
        Part that claims to be within 5 %, and the part of these that is off; 0 of none.
    covered, covered_error
        Part whose interval holds the engine's mean, and its standard error; NaN without intervals.
    median_error
        Of the relative errors, without their sign.
    half_width
        Median of the intervals; NaN without intervals.
    """

    cases: int
    off: float
    trusted: float
    trusted_and_off: float
    covered: float
    covered_error: float
    median_error: float
    half_width: float


def summary(chosen: Sequence[Verdict]) -> Summary:
    """Return verdicts, at least one, in numbers."""
    off = np.array([each.off for each in chosen])
    trusted = np.array([each.trusted for each in chosen])
    covered = [each.covered for each in chosen if each.covered is not None]
    widths = [each.expected.half_width for each in chosen if each.expected is not None]
    n = len(covered)
    share = sum(covered) / n if n else math.nan
    likely = (sum(covered) + 2) / (n + 4)  # all or none of a few is no certainty
    return Summary(
        len(chosen),
        float(off.mean()),
        float(trusted.mean()),
        float(off[trusted].mean()) if trusted.any() else 0.0,
        share,
        math.sqrt(likely * (1 - likely) / (n + 4)) if n else math.nan,
        float(np.median([each.relative for each in chosen])),
        float(np.median(widths)) if widths else math.nan,
    )


Key = tuple[Any, ...]
"""What the verdicts of a group have in common."""


def worst_first(
    found: Iterable[Verdict], key: Callable[[Verdict], Key | None], fewest: int = 1
) -> list[tuple[Key, Summary]]:
    """Return the summary of every group, those that are off most often first.

    Parameters
    ----------
    found
        All verdicts.
    key
        Of the group of a verdict; None leaves it out.
    fewest
        Cases that a group has at least.
    """
    groups: dict[Key, list[Verdict]] = {}
    for each in found:
        if (of := key(each)) is not None:
            groups.setdefault(of, []).append(each)
    rows = [(of, summary(each)) for of, each in groups.items() if len(each) >= fewest]
    return sorted(rows, key=lambda row: (-row[1].off, -row[1].median_error, row[0]))


@dataclass(frozen=True, slots=True)
class Share:
    """What ``auto`` takes from somebody, and how good it is.

    Parameters
    ----------
    scenarios, share
        How many, and which part of all.
    judged
        Answers of which at least one deciding metric can be judged.
    off, off_and_outside
        Part of these of which a deciding metric is off; and outside of its interval besides.
    median_error
        Of the deciding metrics of all, relative; NaN of none, and for the engine, which is what
        errors are measured by.
    """

    scenarios: int
    share: float
    judged: int
    off: float
    off_and_outside: float
    median_error: float


def choices(
    rows: Iterable[Mapping[str, Any]],
    protocol: str,
    within: float,
    expecting: Expecting = expected,
) -> dict[str, Share]:
    """Return from whom ``auto`` would take its answer, the engine last, and how good these are.

    Parameters
    ----------
    rows
        Of the campaign, of one engine.
    protocol
        Of the scenarios, of :data:`ORDERS`.
    within
        How far off the deciding metrics may be, relative.
    """
    order = ORDERS[protocol]
    taken: dict[str, list[list[Verdict]]] = {name: [] for name in (*order, ENGINE)}
    for row in answered(rows):
        if row["protocol"] != protocol or not row["answers"]:
            continue
        reports = {name: expectation(row, name, expecting) for name in order}
        chosen = first_within(reports, within) or ENGINE
        of = {} if chosen == ENGINE else verdicts_of(row, chosen, expecting)
        taken[chosen].append([of[metric] for metric in DECIDING if metric in of])
    total = max(sum(map(len, taken.values())), 1)
    return {name: _share(each, total) for name, each in taken.items()}


def _share(answers: Sequence[Sequence[Verdict]], total: int) -> Share:
    judged = [each for each in answers if each]
    errors = [of.relative for each in judged for of in each]
    off = [any(of.off for of in each) for each in judged]
    worse = [any(of.off and of.outside for of in each) for each in judged]
    return Share(
        len(answers),
        len(answers) / total,
        len(judged),
        float(np.mean(off)) if judged else 0.0,
        float(np.mean(worse)) if judged else 0.0,
        float(np.median(errors)) if errors else math.nan,
    )


def unmarked(found: Sequence[Verdict]) -> tuple[float, float, int]:
    """Return the part of verdicts that is off; that of those whose answer is not marked ``low``.

    Returns
    -------
    off, off_unmarked : float
        0 of none.
    cases : int
        Those that are not marked.
    """
    off = [each.off for each in found]
    others = [each.off for each in found if each.confidence != "low"]
    return (
        float(np.mean(off)) if off else 0.0,
        float(np.mean(others)) if others else 0.0,
        len(others),
    )
