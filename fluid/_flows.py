"""The flow list: who moves where, at which rate, under which rule. Everything else follows from it.

A state variable is a scalar symbol or a template over class ``j`` and stage ``i``; a flow moves
requests from one to another. The right-hand side of the ODE, the balance laws and the jump
process are all read off the same list (model, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

j = sp.Symbol("j", integer=True, positive=True)
i = sp.Symbol("i", integer=True, positive=True)
J = sp.Symbol("J", integer=True, positive=True)
I = sp.Symbol("I", integer=True, positive=True)  # noqa: E741
r = sp.Symbol("r", integer=True, positive=True)
q = sp.Symbol("q", integer=True, positive=True)
ROWS = sp.Symbol("S", integer=True, positive=True)
QUEUED = sp.Symbol("P", integer=True, positive=True)
RANGES = {j: (j, 1, J), i: (i, 1, I), r: (r, 1, ROWS), q: (q, 1, QUEUED)}
"""Class j = 1..J; stage i = 1..I, the token being produced; row r = 1..S of a table; row q = 1..P
of another."""

State = sp.Symbol | sp.Indexed


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests that move from ``origin`` to ``destination`` at ``rate`` [requests/time].

    Parameters
    ----------
    name
        What happens, one word.
    origin, destination
        State variables, as templates in ``j`` and ``i``; None is the outside world.
    symbol
        The flow's own symbol, a template in the indices that it runs over.
    rate
        Its value in terms of the definitions of the model.
    condition
        When it is active, in words.
    """

    name: str
    origin: State | None
    destination: State | None
    symbol: State
    rate: sp.Expr
    condition: str

    @property
    def indices(self) -> tuple[sp.Symbol, ...]:
        """The indices that the flow runs over."""
        return _indices(self.symbol)

    @property
    def total(self) -> sp.Expr:
        """The flow summed over its indices [requests/time]."""
        return summed(self.symbol, self.indices)

    def stoichiometry(self) -> dict[State, int]:
        """Return the change of each state variable when one request follows the flow."""
        change: dict[State, int] = {}
        if self.origin is not None:
            change[self.origin] = -1
        if self.destination is not None:
            change[self.destination] = change.get(self.destination, 0) + 1
        return change


def summed(expression: sp.Expr, indices: tuple[sp.Symbol, ...]) -> sp.Expr:
    """Return the sum of ``expression`` over the whole range of ``indices``."""
    return sp.Sum(expression, *(RANGES[index] for index in indices)) if indices else expression


def right_hand_side(flows: tuple[Flow, ...], variable: State) -> sp.Expr:
    """Return d(variable)/dt, what flows in less what flows out, as one template.

    A stage before the first or after the last holds nobody, so a shifted flow is read as zero
    outside 1..I.
    """
    terms = []
    for flow in flows:
        for endpoint, sign in ((flow.destination, 1), (flow.origin, -1)):
            if endpoint is not None and _base(endpoint) == _base(variable):
                terms.append(sign * _at(variable, endpoint, flow))
    return sp.Add(*terms)


def balance(flows: tuple[Flow, ...], weights: Mapping[State, sp.Expr]) -> dict[str, sp.Expr]:
    """Return what each flow adds to a weighted total per request that follows it.

    ``d/dt sum(weight * state) = sum over flows of (weight at destination - at origin) * rate``,
    which holds whatever the rates are.

    Parameters
    ----------
    weights
        Weight of each state variable (template in ``j``, ``i``); absent is 0.
    """

    def weight(endpoint: State | None) -> sp.Expr:
        for variable, value in weights.items():
            if endpoint is not None and _base(endpoint) == _base(variable):
                shift = dict(zip(_slots(variable), _slots(endpoint), strict=True))
                return sp.sympify(value).subs(shift, simultaneous=True)
        return sp.S.Zero

    return {
        flow.name: sp.simplify(weight(flow.destination) - weight(flow.origin)) for flow in flows
    }


def _at(variable: State, endpoint: State, flow: Flow) -> sp.Expr:
    """Return the part of ``flow`` that meets ``variable`` at ``endpoint``."""
    expression, left = flow.symbol, list(flow.indices)
    factor = sp.S.One
    for slot, where in zip(_slots(variable), _slots(endpoint), strict=True):
        if slot in where.free_symbols:
            expression = expression.subs(slot, 2 * slot - where)
            left.remove(slot)
        else:
            factor *= sp.KroneckerDelta(slot, where)
    return summed(factor * expression, tuple(left))


def _base(variable: State) -> sp.Basic:
    return variable.base if isinstance(variable, sp.Indexed) else variable


def _slots(variable: State) -> tuple[sp.Expr, ...]:
    return variable.indices if isinstance(variable, sp.Indexed) else ()


def _indices(variable: State) -> tuple[sp.Symbol, ...]:
    return tuple(slot for slot in _slots(variable) if isinstance(slot, sp.Symbol))
