"""The symbolic fluid model: flows, equations, balance laws, closed forms. No marching in time."""

from typing import TYPE_CHECKING

from fluid._capacity import Saturation, capacity, saturation, straddle
from fluid._length_classes import LengthClasses, classes_by_length, classes_of_mix

if TYPE_CHECKING:
    from fluid._array_code import constant_statements, rate_statements
    from fluid._equations import Equations, Quantity, equations
    from fluid._flows import Flow, balance
    from fluid._render import render
    from fluid._request_work import RequestWork, request_work
    from fluid._work_closure import WorkClosure, linear_law, work_closure

__all__ = [
    "Equations",
    "Flow",
    "LengthClasses",
    "Quantity",
    "RequestWork",
    "Saturation",
    "WorkClosure",
    "balance",
    "capacity",
    "classes_by_length",
    "classes_of_mix",
    "constant_statements",
    "equations",
    "linear_law",
    "rate_statements",
    "render",
    "request_work",
    "saturation",
    "straddle",
    "work_closure",
]

_LATER = {
    "Equations": "fluid._equations",
    "Flow": "fluid._flows",
    "Quantity": "fluid._equations",
    "RequestWork": "fluid._request_work",
    "WorkClosure": "fluid._work_closure",
    "balance": "fluid._flows",
    "constant_statements": "fluid._array_code",
    "equations": "fluid._equations",
    "linear_law": "fluid._work_closure",
    "rate_statements": "fluid._array_code",
    "render": "fluid._render",
    "request_work": "fluid._request_work",
    "work_closure": "fluid._work_closure",
}
"""Names that need SymPy or Numba, imported when first used: capacity needs neither."""


def __getattr__(name: str) -> object:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'fluid' has no attribute {name!r}")
