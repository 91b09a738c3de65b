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
    step
        Smallest difference of two values, 0 where there is none; 1 of whole numbers.
    values
        All values that there are, the smallest first, where these are few; none stands for any.
    key
        The setting that is turned; empty where it is none.
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
    step: float = 0.0
    values: tuple[float, ...] = ()
    key: str = ""
    safe_below: bool = False

    def rounded(self, value: float) -> float:
        """Return the nearest value that the knob can have."""
        if self.values:
            return min(self.values, key=lambda each: abs(math.log(each / max(value, 1e-300))))
        if self.step and not self.integer:
            return float(f"{round(value / self.step) * self.step:.12g}")
        return float(round(value)) if self.integer else float(value)

    def has_between(self, low: float, high: float) -> bool:
        """Return whether the knob has a value between two of its own."""
        if self.values:
            return any(low < each < high for each in self.values)
        step = 1.0 if self.integer else self.step
        return high - low > step * (1 + 1e-9) if step else True

    def inside(self, value: float, low: float, high: float) -> float:
        """Return a value rounded, moved inside two of its own between which there is one."""
        value = self.rounded(value)
        if low < value < high:
            return value
        is_low = value <= low
        return self.next_to(low if is_low else high, upward=is_low)

    def next_to(self, value: float, *, upward: bool) -> float:
        """Return the value next to one; the same where there is no next one, or any is near."""
        if self.values:
            beyond = [each for each in self.values if (each > value if upward else each < value)]
            return (beyond[0] if upward else beyond[-1]) if beyond else value
        step = 1.0 if self.integer else self.step
        return self.rounded(value + step if upward else value - step)

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
        key=spec.key,
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
    if knob.values and not {*map(float, bracket)} <= {*knob.values}:
        allowed = f"two of {' | '.join(f'{each:g}' for each in knob.values)}"
        raise ConfigError("bracket", bracket, allowed)
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ConfigError("bracket", (low, high), form)
    if low < least or high > most:
        raise ConfigError("bracket", (low, high), f"numbers from {least:g} to {most:g}")
    return low, high
