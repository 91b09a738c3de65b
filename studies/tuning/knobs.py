"""What can be tuned. A later engine or fleet adds its knobs to :data:`KNOBS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from serving import ConfigError, DecodeNode
from workload import Constant, Sine, Steps, Workload

LEAST_LOAD = 0.01
MOST_LOAD = 1.25
"""Arrival rates over lambda_M between which a capacity is sought first."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A steady stream on an instance: what a knob changes and an engine runs."""

    workload: Workload
    instance: DecodeNode

    @property
    def mean_factor(self) -> float:
        """Mean arrival rate over the base rate of the workload."""
        shape = self.workload.shape
        horizon = getattr(shape, "period", None) or 1.0
        return shape.profile(1.0, horizon).total / horizon

    @property
    def mean_rate(self) -> float:
        """Mean arrival rate [requests/time]."""
        return self.workload.rate * self.mean_factor

    def at_rate(self, rate: float) -> Operation:
        """Return the operation at a mean arrival rate [requests/time], its draws stretched."""
        return replace(self, workload=self.workload.at_rate(rate / self.mean_factor))

    def check_steady(self) -> None:
        """Refuse a workload that has no steady state.

        Raises
        ------
        ConfigError
            If the rate goes on changing or ends.
        """
        shape = self.workload.shape
        steady = (
            isinstance(shape, Constant | Sine)
            or (isinstance(shape, Steps) and (shape.period is not None or len(shape.start) == 1))
        )  # fmt: skip
        if not steady:
            raise ConfigError("profile", shape, "a constant or periodic rate")


@dataclass(frozen=True, slots=True, eq=False)
class Knob:
    """One number that can be turned.

    Parameters
    ----------
    name, doc
        What it is called on the command line and what it is.
    better
        Which end of the range that meets the objectives is wanted.
    integer
        Whether only whole numbers are allowed.
    spacing
        Whether the bracket is scanned in equal steps or equal ratios.
    turned
        From an operation and a value to the operation at this value.
    bracket
        Where it is sought by default.
    limits
        Values beyond which it cannot go.
    safe_below
        Whether a value is worth having only if all smaller ones meet the objectives too, as an
        arrival rate, which nobody holds fixed.
    """

    name: str
    doc: str
    better: Literal["larger", "smaller"]
    integer: bool
    spacing: Literal["linear", "log"]
    turned: Callable[[Operation, float], Operation]
    bracket: Callable[[Operation], tuple[float, float]]
    limits: Callable[[Operation], tuple[float, float]]
    safe_below: bool = False

    def rounded(self, value: float) -> float:
        """Return the nearest value that it can have."""
        return float(round(value)) if self.integer else float(value)


def _capacity(operation: Operation) -> float:
    from fluid import capacity

    return capacity(operation.workload.mix, operation.instance)


def _longest(operation: Operation) -> float:
    """Return the tokens of the largest request at its end."""
    mix = operation.workload.mix
    return float((mix.prefill + mix.decode).max())


def _with(**changes: float) -> Callable[[Operation], Operation]:
    return lambda operation: replace(operation, instance=replace(operation.instance, **changes))


def _larger_than_mix(operation: Operation, present: float) -> tuple[float, float]:
    least = math.ceil(_longest(operation))
    return least, max(4.0 * present, 4.0 * least)


KNOBS: dict[str, Knob] = {
    each.name: each
    for each in (
        Knob(
            "max-rate",
            "largest mean arrival rate [requests/time]",
            "larger",
            False,
            "linear",
            lambda operation, value: operation.at_rate(value),
            lambda operation: (
                LEAST_LOAD * _capacity(operation),
                MOST_LOAD * _capacity(operation),
            ),
            lambda _: (0.0, math.inf),
            safe_below=True,
        ),
        Knob(
            "M-total",
            "smallest KV memory [tokens]",
            "smaller",
            True,
            "log",
            lambda operation, value: _with(M_total=int(value))(operation),
            lambda operation: _larger_than_mix(operation, operation.instance.M_total),
            lambda operation: (math.ceil(_longest(operation)), 2.0**53),
        ),
        Knob(
            "B",
            "smallest batch token budget [tokens]",
            "smaller",
            True,
            "log",
            lambda operation, value: _with(B=int(value))(operation),
            lambda operation: (
                math.ceil(_longest(operation)),
                float(max(operation.instance.M_total, math.ceil(_longest(operation)) + 1)),
            ),
            lambda operation: (math.ceil(_longest(operation)), 2.0**53),
        ),
        Knob(
            "admission-threshold",
            "largest share of KV memory up to which requests are admitted",
            "larger",
            False,
            "linear",
            lambda operation, value: _with(admission_threshold=value)(operation),
            lambda _: (0.05, 1.0),
            lambda _: (0.0, 1.0),
        ),
    )
}
"""Every knob by its name."""


def knob_named(name: str) -> Knob:
    """Return the knob of this name, dashes and underscores alike.

    Raises
    ------
    ConfigError
        Listing the knobs there are.
    """
    folded = {each.lower(): each for each in KNOBS}
    key = folded.get(name.replace("_", "-").lower())
    if key is None:
        raise ConfigError("KNOB", name, " | ".join(KNOBS))
    return KNOBS[key]
