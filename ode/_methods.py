"""The methods that solve a fluid model: each declares its solver, its words and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from serving import DecodeNode, RequestMix, UnsupportedError, answers
from serving.errors import hint


@dataclass(frozen=True, slots=True)
class Method:
    """One way to solve.

    Parameters
    ----------
    name
        As given to :func:`ode.solve`.
    title
        As people write it.
    solver
        Where the solver is, ``module:name``; imported when it is first used.
    fixed
        Options of the solver that the method's name stands for.
    options
        Names of the options that a user may give.
    is_limit
        Whether the method solves the fluid limit of large systems, or one node at its size.
    """

    name: str
    title: str
    solver: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    is_limit: bool = True

    def solver_function(self) -> Callable[..., Any]:
        """Return the solver."""
        module, _, name = self.solver.partition(":")
        return getattr(import_module(module), name)


def _eulerian(backend: str, title: str, *more: str) -> Method:
    name = f"eulerian_{backend}"
    options = ("classes", "transport", "max_steps", *more)
    return Method(name, title, "ode.eulerian:solve_eulerian", {"backend": backend}, options)


METHODS: dict[str, Method] = {
    each.name: each
    for each in (
        Method(
            "lagrangian", "Lagrangian", "ode.lagrangian:solve_lagrangian",
            options=("batches_per_step", "max_steps"),
        ),
        _eulerian("jax", "Eulerian (JAX)", "step"),
        _eulerian("diffrax", "Eulerian (diffrax)"),
        _eulerian("scipy", "Eulerian (SciPy)"),
        Method("node_work", "node work", "ode.node_work:solve_node_work", is_limit=False),
    )
}  # fmt: skip
"""Every method by its name: the fluid limit by four solvers, and one node at its finite size."""

OLD_NAMES = {"workload": "node_work"}
"""Names that methods had in version 0.1; they are still understood."""


def method_named(name: str) -> Method:
    """Return the method of a name, old names included.

    Raises
    ------
    UnsupportedError
        Listing the methods there are.
    """
    known = METHODS.get(OLD_NAMES.get(name, name))
    if known is None:
        known_names = f"there are: {', '.join(METHODS)}{hint(name, METHODS)}"
        raise UnsupportedError(f"there is no method {name!r}; {known_names}")
    return known


@answers("decode_node")
def methods_for(instance: DecodeNode) -> tuple[str, ...]:
    """Return the methods that a comparison takes for an instance where none is named."""
    return ("lagrangian", "eulerian_jax")


@answers("decode_node")
def method_of_latencies(mix: RequestMix, instance: DecodeNode) -> str:
    """Return the method that tells the latencies of one instance over time."""
    return "node_work"
