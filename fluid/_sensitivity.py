"""Which parameters, changed by a few per cent, decide whether a node keeps up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fluid._capacity import capacity
from fluid._parameters import parameter_values, with_parameter
from serving import DecodeNode, FluidServeError, RequestMix, answers


@dataclass(frozen=True, slots=True)
class Flip:
    """A small change of one parameter that turns the verdict ``load < 1``.

    Parameters
    ----------
    parameter
        Its name, one of :data:`fluid.PARAMETER_UNITS`.
    change
        Relative, such as -0.05.
    value, changed_value
        Of the parameter.
    load, changed_load
        Arrival rate over capacity.
    verdict
        ``overloaded`` or ``keeps up``: what the change leads to.
    """

    parameter: str
    change: float
    value: float
    changed_value: float
    load: float
    changed_load: float
    verdict: str

    def __str__(self) -> str:
        return (
            f"{self.parameter} {self.change:+.0%} ({self.value:.6g} -> {self.changed_value:.6g}): "
            f"load {self.load:.3f} -> {self.changed_load:.3f}, {self.verdict}"
        )


@answers("decode_node")
def saturation_sensitivity(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float, change: float = 0.05
) -> list[Flip]:
    """Return the changes of a single parameter by +-``change`` that flip ``load < 1``.

    Load is ``arrival_rate`` over :func:`fluid.capacity`. A parameter that is 0 or unlimited stays
    so and is left out; a threshold stays at or below 1. ``mean_prefill`` grows by a constant and
    shrinks in proportion, ``mean_decode`` moves in proportion.

    Parameters
    ----------
    mix, instance
        Lengths, and the node.
    arrival_rate : [requests/time]
    change
        Relative size, within (0, 1).

    Returns
    -------
    list of Flip
        The largest changes of load first; empty where the verdict is safe.

    Raises
    ------
    FluidServeError
        If ``arrival_rate`` is not a finite number > 0 or ``change`` not within (0, 1).
    """
    return flips_of(mix, instance, arrival_rate, change)


def flips_of(mix: RequestMix, instance: Any, arrival_rate: float, change: float) -> list[Flip]:
    """Return the changes that flip the verdict, whatever model answers for the instance."""
    if not (math.isfinite(arrival_rate) and arrival_rate > 0):
        raise FluidServeError(f"arrival_rate: {arrival_rate} is not allowed; allowed: finite > 0")
    if not 0 < change < 1:
        raise FluidServeError(f"change: {change} is not allowed; allowed: between 0 and 1")
    load = arrival_rate / capacity(mix, instance)
    flips = []
    for name, value in parameter_values(mix, instance, arrival_rate).items():
        if value == 0 or not math.isfinite(value):
            continue
        for relative in (-change, change):
            new = with_parameter(mix, instance, arrival_rate, name, value * (1 + relative))
            if new.value == value:
                continue
            changed = new.arrival_rate / capacity(new.mix, new.instance)
            if (changed < 1) != (load < 1):
                verdict = "keeps up" if changed < 1 else "overloaded"
                share = new.value / value - 1
                flips.append(Flip(name, share, value, new.value, load, changed, verdict))
    return sorted(flips, key=lambda flip: -abs(flip.changed_load - load))
