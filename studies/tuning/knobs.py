"""What can be tuned: the arrival rate, and the settings that the kind of an instance names.

A knob turns a question into a question. An engine adds knobs of its own in its
:class:`serving.Kind`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from serving import ConfigError, Kind, KnobSpec, SolveError, UnsupportedError
from studies.question import Question

LEAST_LOAD = 0.01
"""Least arrival rate of the own bracket of ``max-rate``, as a share of lambda_M."""

MOST_LOAD = 1.25
"""Largest arrival rate of the own bracket of ``max-rate``, as a share of lambda_M."""


@dataclass(frozen=True, slots=True, eq=False)
class Knob:
    """One number that can be turned.

    Parameters
    ----------
    name
        Name on the command line.
    words
        What is found, such as ``smallest KV memory [tokens]``.
    better
        Which end of the range that meets the objectives is wanted.
    spacing
        Whether a bracket is scanned in equal steps or in equal ratios.
    turned
        From a question and a value to the question at this value.
    bracket
        From a question to the two values between which a search starts by default.
    limits
        From a question to the values beyond which the knob cannot go.
    integer
        Whether only whole numbers are allowed.
    safe_below
        Whether a value is worth having only if all smaller ones meet the objectives too, as an
        arrival rate, which nobody holds fixed.
    """

    name: str
    words: str
    better: Literal["larger", "smaller"]
    spacing: Literal["linear", "log"]
    turned: Callable[[Question, float], Question]
    bracket: Callable[[Question], tuple[float, float]]
    limits: Callable[[Question], tuple[float, float]]
    integer: bool = False
    safe_below: bool = False

    def rounded(self, value: float) -> float:
        """Return the nearest value that the knob can have."""
        return float(round(value)) if self.integer else float(value)

    def spaced(self, bracket: tuple[float, float], count: int) -> list[float]:
        """Return up to ``count`` different values from one end of a bracket to the other."""
        spaced = np.geomspace if self.spacing == "log" else np.linspace
        inner = [self.rounded(value) for value in spaced(*bracket, count)[1:-1]]
        return sorted({bracket[0], *inner, bracket[1]})


def at_mean_rate(question: Question, rate: float) -> Question:
    """Return the question of a steady stream at a mean arrival rate [requests/time].

    The draws stay and are stretched.
    """
    return question.at_rate(question.stream.at_mean_rate(rate).rate)


def _around_capacity(question: Question) -> tuple[float, float]:
    from fluid import capacity

    most = capacity(question.mix, question.instance)
    if not math.isfinite(most):
        reason = (
            "a full batch takes no time by this law, so that no rate is too large; give d_0 > 0"
        )
        raise SolveError("tune", "no_capacity", reason)
    return LEAST_LOAD * most, MOST_LOAD * most


MAX_RATE = Knob(
    "max-rate",
    "largest mean arrival rate [requests/time]",
    "larger",
    "linear",
    turned=at_mean_rate,
    bracket=_around_capacity,
    limits=lambda _: (0.0, math.inf),
    safe_below=True,
)
"""The one knob that every kind of engine has."""


def knob_of(spec: KnobSpec) -> Knob:
    """Return the knob that turns a setting of an instance."""

    def turned(question: Question, value: float) -> Question:
        setting = int(value) if spec.integer else value
        return question.on(replace(question.instance, **{spec.key: setting}))  # type: ignore[type-var]

    return Knob(
        spec.name,
        spec.words,
        spec.better,
        spec.spacing,
        turned=turned,
        bracket=lambda question: spec.bracket(question.mix, question.instance),
        limits=lambda question: spec.limits(question.mix, question.instance),
        integer=spec.integer,
    )


def knobs_of(kind: Kind) -> dict[str, Knob]:
    """Return every knob of an instance of a kind, by name."""
    knobs = [MAX_RATE, *(knob_of(spec) for spec in kind.knobs)]
    return {knob.name: knob for knob in knobs}


def knob_named(name: str, kind: Kind) -> Knob:
    """Return the knob of a name, dashes and underscores alike.

    Parameters
    ----------
    name
        In capital or small letters.
    kind
        Kind of the instance whose knob is wanted.

    Raises
    ------
    ConfigError
        Listing the knobs that the kind has.
    """
    knobs = knobs_of(kind)
    folded = {each.lower(): knob for each, knob in knobs.items()}
    found = folded.get(name.replace("_", "-").lower())
    if found is None:
        raise ConfigError("knob", name, " | ".join(knobs))
    return found


def bracket_of(
    knob: Knob, question: Question, bracket: tuple[float, float] | None
) -> tuple[float, float]:
    """Return a bracket that a search can start from, the knob's own where None is given.

    Raises
    ------
    ConfigError
        If the bracket is not two numbers in order, or leaves the limits of the knob; or if none is
        given and no fluid model knows where to look.
    """
    form = "two finite numbers LOW < HIGH, both > 0"
    if bracket is None:
        try:
            bracket = knob.bracket(question)
        except UnsupportedError as error:
            needed = f"{form}; {knob.name} needs a bracket here, because {error}"
            raise ConfigError("bracket", None, needed) from None
    least, most = knob.limits(question)
    low, high = knob.rounded(bracket[0]), knob.rounded(bracket[1])
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ConfigError("bracket", (low, high), form)
    if low < least or high > most:
        raise ConfigError("bracket", (low, high), f"numbers from {least:g} to {most:g}")
    return low, high
