"""The symbolic fluid model: flows, equations, balance laws, closed forms. No marching in time."""

from typing import TYPE_CHECKING

from fluid._capacity import Saturation, capacity, saturation, straddle
from fluid._certificate import Certificate, certificate
from fluid._equilibrium import Equilibrium, equilibrium, gamma_quantiles
from fluid._first_passage import mean_time_to_full
from fluid._length_classes import LengthClasses, classes_by_length, classes_of_mix
from fluid._moments import Moments, moments
from fluid._parameters import (
    LAW_PARAMETERS,
    PARAMETER_UNITS,
    parameter_values,
    with_mean_decode,
    with_mean_prefill,
)
from fluid._sensitivity import Flip, saturation_sensitivity
from fluid._survival_polynomial import largest_root, ode_is_stable, survival_polynomial
from fluid._threshold import threshold_without_eviction
from fluid._worst_cycle import WorstCycle, worst_cycle
from serving.later import later

if TYPE_CHECKING:
    from fluid._array_code import constant_statements, rate_statements
    from fluid._equations import Equations, Quantity, equations
    from fluid._equilibrium_gradients import equilibrium_gradients
    from fluid._flows import Flow, balance
    from fluid._render import render
    from fluid._request_work import RequestWork, request_work
    from fluid._symbolic_equilibrium import equilibrium_formulas
    from fluid._work_closure import WorkClosure, work_closure

__all__ = [
    "LAW_PARAMETERS",
    "PARAMETER_UNITS",
    "Certificate",
    "Equations",
    "Equilibrium",
    "Flip",
    "Flow",
    "LengthClasses",
    "Moments",
    "Quantity",
    "RequestWork",
    "Saturation",
    "WorkClosure",
    "WorstCycle",
    "balance",
    "capacity",
    "certificate",
    "classes_by_length",
    "classes_of_mix",
    "constant_statements",
    "equations",
    "equilibrium",
    "equilibrium_formulas",
    "equilibrium_gradients",
    "gamma_quantiles",
    "largest_root",
    "mean_time_to_full",
    "moments",
    "ode_is_stable",
    "parameter_values",
    "rate_statements",
    "render",
    "request_work",
    "saturation",
    "saturation_sensitivity",
    "straddle",
    "survival_polynomial",
    "threshold_without_eviction",
    "with_mean_decode",
    "with_mean_prefill",
    "work_closure",
    "worst_cycle",
]

# These need SymPy or Numba; the numeric closed forms do not.
__getattr__ = later(
    __name__,
    {
        "Equations": "fluid._equations",
        "Flow": "fluid._flows",
        "Quantity": "fluid._equations",
        "RequestWork": "fluid._request_work",
        "WorkClosure": "fluid._work_closure",
        "balance": "fluid._flows",
        "constant_statements": "fluid._array_code",
        "equations": "fluid._equations",
        "equilibrium_formulas": "fluid._symbolic_equilibrium",
        "equilibrium_gradients": "fluid._equilibrium_gradients",
        "rate_statements": "fluid._array_code",
        "render": "fluid._render",
        "request_work": "fluid._request_work",
        "work_closure": "fluid._work_closure",
    },
)
