"""What moves the closed forms of a server: derivatives and elasticities by its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fluid import capacity, equilibrium_gradients, parameter_values
from serving import Instance, RequestMix

Table = Mapping[str, Mapping[str, float]]

OF_EQUILIBRIUM = {"batch_time": "tau"}
"""What an equilibrium calls the quantities that it has under another name."""


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """By quantity (``capacity``, ``ttft``), then by parameter.

    Parameters
    ----------
    derivative
        See :func:`fluid.equilibrium_gradients`.
    elasticity
        Per cent by per cent, of every parameter that is not 0.
    """

    derivative: Table = field(default_factory=dict)
    elasticity: Table = field(default_factory=dict)


def closed_form(mix: RequestMix, instance: Instance, rate: float, healthy: Any) -> ClosedForm:
    """Return what moves capacity and equilibrium of a server.

    Parameters
    ----------
    mix, instance, rate
        Lengths, server and arrival rate [requests/time].
    healthy
        Its equilibrium; None where it has none.
    """
    found = equilibrium_gradients(mix, instance, rate)
    values = parameter_values(mix, instance, rate)
    derivative: dict[str, dict[str, float]] = {}
    elasticity: dict[str, dict[str, float]] = {}
    for name, slopes in found.items():
        if name == "capacity":
            size = capacity(mix, instance)
        else:
            size = float(getattr(healthy, OF_EQUILIBRIUM.get(name, name)))
        known = {key: slope for key, slope in slopes.items() if math.isfinite(slope)}
        derivative[name] = known
        elasticity[name] = {
            key: slope * values[key] / size for key, slope in known.items() if values.get(key)
        }
    return ClosedForm(derivative, elasticity)
