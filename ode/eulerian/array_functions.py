"""Compiles the symbolic templates into array functions, the same source for every back end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from fluid import Equations, constant_statements, equations, rate_statements

OUTPUTS = ("tau", "b", "n", "n_1", "a", "N", "U", "m")
"""Definitions that a solution reports, by code name: batch time, batch tokens, batch size,
those executing their first token, admission, RUNNING, memory with reservations, the evicted."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Array functions of one mode.

    Parameters
    ----------
    equations
        Their symbolic source.
    pool
        Code name of the evicted: ``Z`` (J, I) or ``R`` (J,).
    integrals
        Code names of the running totals, in the order of ``rates``.
    constants
        ``constants(parameters) -> constants``, both mappings by code name.
    rates
        ``rates(parameters_and_constants, arrival_rate, Q, X, pool) ->
        ((dQ, dX, dpool), integrals, outputs)``; outputs in the order of :data:`OUTPUTS`.
    """

    equations: Equations
    pool: str
    integrals: tuple[str, ...]
    constants: Callable[[Mapping[str, Any]], dict[str, Any]]
    rates: Callable[..., tuple[tuple, tuple, tuple]]


@cache
def compiled(mode: str, transport: str, library: str, tabulated: bool = False) -> Compiled:
    """Return the array functions of ``equations(mode, transport)`` for numpy or jax."""
    model = equations(mode, transport, tabulated=tabulated)
    names = [item.code for item in model.parameters if item.code != "arrival_rate"]
    constants = [item.code for item in model.constants]
    state = [item.code for item in model.states]
    integrals = tuple(item.code for item in model.integrals)
    source = "\n".join(
        [
            "def constants(parameters):",
            *_unpacked("parameters", names),
            "    i = stages(q)",
            *_indented(constant_statements(model)),
            f"    return {_mapping([*names, *constants])}",
            "",
            f"def rates(values, arrival_rate, {', '.join(state)}):",
            *_unpacked("values", [*names, *constants]),
            "    i = stages(q)",
            *_indented(rate_statements(model)),
            f"    return ({_tuple('d' + name for name in state)},",
            f"        {_tuple('d' + name for name in integrals)}, {_tuple(OUTPUTS)})",
        ]
    )
    scope: dict[str, Any] = array_library(library)
    exec(compile(source, f"<fluid equations, {mode}>", "exec"), scope)  # the project's own text
    return Compiled(model, state[-1], integrals, scope["constants"], scope["rates"])


def array_library(library: str) -> dict[str, Any]:
    """Return the names that generated code uses: ``xp``, the shifts and the stage numbers."""
    if library == "numpy":
        import numpy as np

        xp: Any = np

        def weighted_sums(x: Any, weights: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(np.sum(weight * x) for weight in weights)

    else:
        import jax.numpy as jnp

        xp = jnp

        def weighted_sums(x: Any, weights: tuple[Any, ...]) -> tuple[Any, ...]:
            # XLA on a CPU sums numbers one after the other, and rewrites a dot product of two
            # vectors as such a sum; a matrix of several rows times a vector it does with SIMD
            rows = [jnp.broadcast_to(weight, x.shape).ravel() for weight in weights]
            sums = jnp.stack(rows + rows[:1] * (len(rows) == 1)).astype(x.dtype) @ x.ravel()
            return tuple(sums[: len(rows)])

    chosen = SimpleNamespace(
        sum=xp.sum,
        minimum=xp.minimum,
        maximum=xp.maximum,
        cumsum=xp.cumsum,
        weighted_sums=weighted_sums,
    )

    def from_previous(x: Any) -> Any:
        return xp.concatenate([xp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)

    def from_next(x: Any) -> Any:
        return xp.concatenate([x[..., 1:], xp.zeros_like(x[..., :1])], axis=-1)

    return {
        "xp": chosen,
        "from_previous": from_previous,
        "from_next": from_next,
        "stages": lambda q: xp.arange(1, q.shape[-1] + 1),
    }


def _unpacked(source: str, names: list[str]) -> list[str]:
    return [f"    {name} = {source}[{name!r}]" for name in names]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _mapping(names: list[str]) -> str:
    return "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"


def _tuple(names: Any) -> str:
    return "(" + "".join(f"{name}, " for name in names) + ")"
