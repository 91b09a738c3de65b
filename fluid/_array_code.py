"""Array code from the symbolic templates: one array statement per equation, never per state.

Arrays over classes and stages have shape (J, I), over stages (I,), over classes (J,). A sum over
a whole range becomes ``xp.sum``, a sum up to the stage ``xp.cumsum``, a neighbouring stage a
shift, a Kronecker delta of the stage a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import sympy as sp
from sympy.core.basic import Basic
from sympy.printing.pycode import PythonCodePrinter

from fluid._equations import CONSTANTS, PARAMETERS, TABLE, Equations, Quantity, tau
from fluid._flows import State, i, j, r

BATCH_RATE = sp.Symbol("batch_rate")
"""Batches per time, 1 / tau, in code only."""

Frame = tuple[sp.Symbol, ...]
"""The indices an array statement runs over: (), (i,), (j,) or (j, i)."""


class ArrayPrinter(PythonCodePrinter):
    """Prints an expression as an array expression of a frame, with ``xp`` the array module."""

    def __init__(self, names: Mapping[Basic, str]) -> None:
        super().__init__({"fully_qualified_modules": False})
        self._names = names
        self._frame: Frame = ()

    def code(self, expression: sp.Expr, frame: Frame) -> str:
        """Return ``expression`` as code that yields an array over ``frame``."""
        outer, self._frame = self._frame, frame
        try:
            return self.doprint(expression)
        finally:
            self._frame = outer

    def _print_Symbol(self, expr: sp.Symbol) -> str:
        return self._names.get(expr, expr.name)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        name = self._names[expr.base.label]
        slots = expr.indices
        if slots[-1] == 1 and len(slots) == 2:
            return f"{name}[:, 0]" + self._widen((j,))
        if slots == (r,):  # a row of the batch time's table
            return name
        if len(slots) == 1 and slots[0] == j:
            return name + self._widen((j,))
        shift = slots[-1] - i
        if shift == 0:
            return name
        if shift == -1:
            return f"from_previous({name})"
        if shift == 1:
            return f"from_next({name})"
        raise NotImplementedError(f"no array code for {expr}")

    def _widen(self, has: Frame) -> str:
        return "[:, None]" if has == (j,) and i in self._frame else ""

    def _print_Sum(self, expr: sp.Sum) -> str:
        summed = [limit[0] for limit in expr.limits]
        if summed == [r]:
            return f"xp.sum({self._print(expr.function)})"
        upper = expr.limits[0][2]
        if upper == i:  # sum up to the stage, over a dummy index
            (dummy,) = summed
            inner = self._print(expr.function.subs(dummy, i))
            return f"xp.cumsum({inner}, axis=-1)"
        frame = tuple(index for index in (j, i) if index in summed or index in self._frame)
        inner = self.code(expr.function, frame)
        axes = [frame.index(index) for index in summed]
        if len(axes) == len(frame):
            return f"xp.sum({inner})"
        return f"xp.sum({inner}, axis={axes[0]})"

    def _print_KroneckerDelta(self, expr: sp.KroneckerDelta) -> str:
        _, at = expr.args if expr.args[0] == i else expr.args[::-1]
        return f"(i == {self._print(at)})"

    def _print_Max(self, expr: sp.Max) -> str:
        return self._nested("xp.maximum", expr.args)

    def _print_Min(self, expr: sp.Min) -> str:
        return self._nested("xp.minimum", expr.args)

    def _nested(self, function: str, arguments: tuple[Basic, ...]) -> str:
        first, *rest = sorted(arguments, key=lambda x: (len(str(x)), str(x)))
        code = self._print(first)
        for other in rest:
            code = f"{function}({code}, {self._print(other)})"
        return code


def frame_of(symbol: State) -> Frame:
    """Return the indices of a template symbol."""
    if not isinstance(symbol, sp.Indexed):
        return ()
    return tuple(index for index in (j, i) if index in symbol.indices)


WEIGHTS = frozenset(
    item.symbol.base.label
    for item in (*PARAMETERS, *TABLE, *CONSTANTS)
    if isinstance(item.symbol, sp.Indexed)
)
"""Labels of the arrays that do not change with the state."""


def names_of(equations: Equations) -> dict[Basic, str]:
    """Return the code name of every symbol of ``equations``."""
    quantities = (
        *equations.parameters,
        *equations.constants,
        *equations.states,
        *equations.definitions,
    )
    names = {key(quantity.symbol): quantity.code for quantity in quantities}
    return names | {key(flow.symbol): f"flow_{flow.name}" for flow in equations.flows}


def key(symbol: State) -> Basic:
    """Return what identifies a template symbol: its label if it is indexed."""
    return symbol.base.label if isinstance(symbol, sp.Indexed) else symbol


def constant_statements(equations: Equations) -> list[str]:
    """Return ``name = expression`` for every definition in the parameters alone."""
    printer = ArrayPrinter(names_of(equations))
    return [
        f"{item.code} = {printer.code(item.expression, frame_of(item.symbol))}"
        for item in equations.constants
    ]


def _summed_variable(item: Quantity) -> sp.Indexed | None:
    """Return the array that a definition sums over all its indices, weighted or not."""
    total = item.expression
    if not isinstance(total, sp.Sum) or frame_of(item.symbol) or not total.limits[0][2].is_Symbol:
        return None
    variables = [x for x in total.function.atoms(sp.Indexed) if x.base.label not in WEIGHTS]
    weight = total.function / variables[0] if len(variables) == 1 else None
    return None if weight is None or weight.has(variables[0]) else variables[0]


def _weighted_sums(printer: ArrayPrinter, variable: sp.Indexed, group: tuple[Quantity, ...]) -> str:
    """Return one statement for sums of one array under several weights."""
    names = ", ".join(item.code for item in group)
    frame = frame_of(variable)
    weights = ", ".join(printer.code(item.expression.function / variable, frame) for item in group)
    return f"{names}, = xp.weighted_sums({printer.code(variable, frame)}, ({weights},))"


def rate_statements(equations: Equations, *, grouped: bool = True) -> list[str]:
    """Return ``name = expression`` for definitions, flows, derivatives and integrals, in order.

    ``grouped`` writes neighbouring sums of one array as ``xp.weighted_sums(array, weights)``.
    """
    printer = ArrayPrinter(names_of(equations))
    lines = []
    for variable, group in groupby(equations.definitions, key=_summed_variable):
        if variable is None or not grouped:
            lines += [
                f"{item.code} = {printer.code(item.expression, frame_of(item.symbol))}"
                for item in group
            ]
        else:
            lines.append(_weighted_sums(printer, variable, tuple(group)))
    per_time = {tau: 1 / BATCH_RATE}  # one division instead of one per array element
    lines.append(f"{BATCH_RATE} = 1/tau")
    lines += [
        f"flow_{flow.name} = {printer.code(flow.rate.subs(per_time), frame_of(flow.symbol))}"
        for flow in equations.flows
    ]
    lines += [
        f"d{item.code} = {printer.code(equations.rhs(item.symbol), frame_of(item.symbol))}"
        for item in equations.states
    ]
    lines += [
        f"d{item.code} = {printer.code(item.expression.subs(per_time), ())}"
        for item in equations.integrals
    ]
    return lines
