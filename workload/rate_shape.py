"""Define rate shapes: the arrival rate over time as multiples of a base rate.

A shape has no unit. A workload multiplies it by its rate [requests/time] and asks for the
profile over the horizon it needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serving import ConfigError, RateProfile, WorkloadError


class RateShape(Protocol):
    """Multiple of the base rate over time."""

    @property
    def period(self) -> float | None:
        """Time after which the shape repeats [time]; None where it does not."""
        ...

    @property
    def is_steady(self) -> bool:
        """Whether the rate is constant or periodic for good."""
        ...

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return expected arrivals over [0, horizon] [time] at base ``rate`` [requests/time]."""
        ...

    def stretched(self, factor: float) -> RateShape:
        """Return the shape with its own times multiplied by ``factor``."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The base rate at all times."""

    @property
    def period(self) -> None:
        """The shape does not repeat."""
        return None

    @property
    def is_steady(self) -> bool:
        """The rate is constant for good."""
        return True

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return the profile over [0, horizon]."""
        return RateProfile.constant(rate, horizon)

    def stretched(self, factor: float) -> Constant:
        """Return itself: there is no time in it."""
        return self


@dataclass(frozen=True, slots=True)
class Steps:
    """Factors that hold from each start to the next, the last for good or until ``period``.

    Parameters
    ----------
    start : [time]
        First is 0, increasing.
    factor
        Multiple of the base rate from each start on, >= 0 and not all 0.
    period : [time] or None
        Repeat after this time; beyond the last start.

    Raises
    ------
    WorkloadError
        If starts or factors are not as above.
    """

    start: tuple[float, ...]
    factor: tuple[float, ...]
    period: float | None = None

    def __post_init__(self) -> None:
        if len(self.start) != len(self.factor) or not self.start or self.start[0] != 0:
            raise WorkloadError("steps need one factor per start, the first start being 0")
        edges = (*self.start, math.inf if self.period is None else self.period)
        if not all(a < b for a, b in itertools.pairwise(edges)):
            raise WorkloadError("the starts of steps must increase and stay below the period")
        _check("a factor of the steps", self.factor, minimum=0)
        if max(self.factor) == 0:
            raise WorkloadError("the factors of the steps are all 0; allowed: one > 0 at least")

    @property
    def is_steady(self) -> bool:
        """Whether the steps repeat, or are one."""
        return self.period is not None or len(self.start) == 1

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return the profile over [0, horizon]."""
        start, factor = np.array(self.start), np.array(self.factor)
        if self.period is not None:
            cycles = max(1, math.ceil(horizon / self.period))
            start = (self.period * np.arange(cycles)[:, None] + start).ravel()
            factor = np.tile(factor, cycles)
        used = start < horizon
        return RateProfile.steps(start[used], rate * factor[used], horizon)

    def stretched(self, factor: float) -> Steps:
        """Return the steps with starts and period multiplied by ``factor``."""
        start = tuple(factor * each for each in self.start)
        return Steps(start, self.factor, None if self.period is None else factor * self.period)


@dataclass(frozen=True, slots=True)
class Sine:
    """``1 + amplitude * sin(2 pi t / period)``, whose mean is 1.

    Parameters
    ----------
    amplitude
        0 to 1, so that the rate is never negative.
    period : [time]
    """

    amplitude: float
    period: float

    def __post_init__(self) -> None:
        _check("the amplitude of a sine", (self.amplitude,), minimum=0)
        if self.amplitude > 1:
            raise WorkloadError(f"the amplitude of a sine is {self.amplitude}; allowed: <= 1")
        _check("the period of a sine", (self.period,), minimum=0, exclusive=True)

    @property
    def is_steady(self) -> bool:
        """The rate is periodic for good."""
        return True

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return the profile over [0, horizon]."""
        return RateProfile.sine(rate, self.amplitude, self.period, horizon)

    def stretched(self, factor: float) -> Sine:
        """Return the sine with its period multiplied by ``factor``."""
        return Sine(self.amplitude, factor * self.period)


@dataclass(frozen=True, slots=True)
class Ramp:
    """A factor that goes linearly from ``first`` to ``last`` and stays there.

    Parameters
    ----------
    first, last
        Multiples of the base rate, >= 0 and not both 0.
    duration : [time]
        How long the ramp takes.
    """

    first: float
    last: float
    duration: float

    def __post_init__(self) -> None:
        _check("a factor of the ramp", (self.first, self.last), minimum=0)
        if self.first == self.last == 0:
            raise WorkloadError("a ramp from 0 to 0 has no arrivals")
        _check("the duration of a ramp", (self.duration,), minimum=0, exclusive=True)

    @property
    def period(self) -> None:
        """The shape does not repeat."""
        return None

    @property
    def is_steady(self) -> bool:
        """The rate goes on changing until the ramp ends."""
        return False

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return the profile over [0, horizon]."""
        end = min(horizon, self.duration)
        reached = self.first + (self.last - self.first) * end / self.duration
        rising = RateProfile.ramp(rate * self.first, rate * reached, end)
        if horizon <= self.duration:
            return rising
        after = rising.total + rate * self.last * (horizon - self.duration)
        return RateProfile(np.append(rising.time, horizon), np.append(rising.cumulative, after))

    def stretched(self, factor: float) -> Ramp:
        """Return the ramp taking ``factor`` times as long."""
        return Ramp(self.first, self.last, factor * self.duration)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A given profile, such as a trace's own curve or a forecast, per unit of base rate.

    Parameters
    ----------
    relative
        Cumulative factor over time; no arrivals after its last knot.
    """

    relative: RateProfile

    @property
    def period(self) -> None:
        """The shape does not repeat."""
        return None

    @property
    def is_steady(self) -> bool:
        """Arrivals end with the curve."""
        return False

    def profile(self, rate: float, horizon: float) -> RateProfile:
        """Return the profile over [0, horizon]."""
        time, cumulative = self.relative.time, self.relative.cumulative
        inside = time <= horizon
        end = self.relative.count(horizon)
        return RateProfile(
            np.append(time[inside], horizon), rate * np.append(cumulative[inside], end)
        )

    def stretched(self, factor: float) -> Curve:
        """Return the curve with time multiplied by ``factor``, its factors unchanged."""
        relative = self.relative
        return Curve(RateProfile(relative.time * factor, relative.cumulative * factor))


RATE_SHAPE_FORMS = (
    "constant | steps(0:0.5,1000:1.5[,period=3000]) | sine(amplitude=0.5,period=100) | "
    "ramp(first=0.5,last=2,duration=1000)"
)


def parse_rate_shape(text: str) -> RateShape:
    """Return the shape that ``text`` names, in one of :data:`RATE_SHAPE_FORMS`.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    name, _, rest = text.strip().partition("(")
    fields = [each.strip() for each in rest.removesuffix(")").split(",")] if rest else []
    try:
        if rest and not rest.endswith(")"):
            raise ValueError("the bracket is not closed")
        if name == "constant" and not fields:
            return Constant()
        if name == "steps":
            steps = [each.split(":") for each in fields if ":" in each]
            named = _named(each for each in fields if ":" not in each)
            return Steps(
                tuple(float(start) for start, _ in steps),
                tuple(float(factor) for _, factor in steps),
                **named,
            )
        if name in ("sine", "ramp"):
            return {"sine": Sine, "ramp": Ramp}[name](**_named(fields))
    except WorkloadError as error:
        raise ConfigError("rate_shape", text, error.reason) from error
    except (ValueError, TypeError) as error:
        raise ConfigError("rate_shape", text, RATE_SHAPE_FORMS) from error
    raise ConfigError("rate_shape", text, RATE_SHAPE_FORMS)


def _named(fields: Iterable[str]) -> dict[str, float]:
    pairs = (each.split("=") for each in fields)
    return {key.strip(): float(value) for key, value in pairs}


def _check(
    what: str, values: tuple[float, ...], *, minimum: float, exclusive: bool = False
) -> None:
    for value in values:
        if not math.isfinite(value) or value < minimum or (exclusive and value == minimum):
            sign = ">" if exclusive else ">="
            raise WorkloadError(f"{what} is {value}; allowed: a finite number {sign} {minimum}")
