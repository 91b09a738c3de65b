"""Python source of one step of a server, from the symbols: one array statement per equation.

Arrays have classes along the first axis and rows along the second; what lacks an index has length 1
there. A sum over a whole range becomes ``total``, a sum over the rows after or before one ``after``
or ``before``.
"""

from __future__ import annotations

import sympy as sp
from sympy.core.basic import Basic
from sympy.printing.pycode import PythonCodePrinter

from fluid._array_code import key
from fluid._equations import Quantity
from fluid._flows import QUEUED, ROWS, Flow, State, j, q, r
from fluid.prompt_server.symbols import PI, D, ServerEquations, hit, p

BY_CLASS, BY_ROW = (PI, p, D, hit), ("g", "y", "mark")
PREFIX = """import numpy as np


def total(x, *axes):
    return np.sum(x, axis=axes, keepdims=True)


def after(x):
    return np.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x


def before(x):
    return np.cumsum(x, axis=1) - x


def scalar(x):
    return float(np.asarray(x).reshape(()))
"""


class StepPrinter(PythonCodePrinter):
    """Prints an expression as one of arrays over classes and rows."""

    def __init__(self, model: ServerEquations) -> None:
        super().__init__({"fully_qualified_modules": False})
        quantities = (
            *model.parameters, *model.constants, *model.states, *model.marks, *model.definitions,
        )  # fmt: skip
        self._names = {key(x.symbol): x.code for x in quantities}
        self._names |= {key(x.symbol): f"flow_{x.name}" for x in model.flows}

    def _print_Symbol(self, expr: sp.Symbol) -> str:
        return self._names.get(expr, expr.name)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        return self._names[expr.base.label]

    def _print_Sum(self, expr: sp.Sum) -> str:
        over = [(index, low, high) for index, low, high in expr.limits]
        index, low, high = over[0]
        if len(over) == 1 and low == r + 1:
            return f"after({self._print(expr.function.subs(index, r))})"
        if len(over) == 1 and high == q - 1:
            return f"before({self._print(expr.function.subs(index, q))})"
        axes = ", ".join("0" if index == j else "1" for index, _, _ in over)
        return f"total({self._print(expr.function)}, {axes})"

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        (value, condition), (otherwise, _) = expr.args
        parts = (self._print(each) for each in (condition, value, otherwise))
        return f"np.where({', '.join(parts)})"

    def _print_And(self, expr: sp.And) -> str:
        return " & ".join(f"({self._print(each)})" for each in expr.args)

    def _print_Max(self, expr: sp.Max) -> str:
        return self._nested("np.maximum", expr.args)

    def _print_Min(self, expr: sp.Min) -> str:
        return self._nested("np.minimum", expr.args)

    def _nested(self, function: str, arguments: tuple[Basic, ...]) -> str:
        first, *rest = sorted(arguments, key=lambda x: (len(str(x)), str(x)))
        code = self._print(first)
        for other in rest:
            code = f"{function}({code}, {self._print(other)})"
        return code

    def _print_exp(self, expr: sp.exp) -> str:
        return f"np.exp({self._print(expr.args[0])})"

    def _print_ceiling(self, expr: sp.ceiling) -> str:
        return f"np.ceil({self._print(expr.args[0])})"


def step_source(model: ServerEquations) -> str:
    """Return a module with one function ``server_step`` that needs nothing but NumPy."""
    printer, width = StepPrinter(model), "    "
    states = [item.code for item in (*model.states, *model.marks)]
    parameters = [item.code for item in model.parameters]
    reported = [x.code for x in (*model.definitions, *model.integrals) if x.symbol.is_Symbol]
    shown = [f'"{code}": scalar({code})' for code in reported]
    kind = "prompts in steps of their own" if model.prompts_apart else "prompts beside decodes"
    lines = [
        f'"""Fluid model of a server that computes its own prompts: one step, {kind}.',
        "",
        "Generated from the symbolic equations; J classes, S rows of RUNNING, P rows of PREEMPTED.",
        '"""',
        "",
        *PREFIX.splitlines(),
        "",
        "",
        f"def server_step({', '.join(states)}, {', '.join(parameters)}):",
        f'{width}"""Return state and marks after a step, and what the step was made of.',
        "",
        *(f"{width}{x.code}{_shape(x)}: [{x.unit}] {x.meaning}"
          for x in (*model.states, *model.marks, *model.parameters)),
        f'{width}"""',
        *(f"{width}{base.label} = np.reshape({base.label}, (-1, 1))" for base in BY_CLASS),
        *(f"{width}{name} = np.reshape({name}, (1, -1))" for name in BY_ROW),
        *(f"{width}{x.code} = {printer.doprint(x.expression)}"
          for x in (*model.constants, *model.definitions)),
        *(f"{width}flow_{flow.name} = {printer.doprint(flow.rate)}" for flow in model.flows),
        *(f"{width}{x.code} = {printer.doprint(x.expression)}" for x in model.integrals),
        f"{width}grown_older = {printer.doprint(model.marks[0].expression)}",
        f"{width}following = {{",
        *(f'{width * 2}"{x.code}": {_next_state(model, x)},' for x in model.states),
        f'{width * 2}"g": np.concatenate([grown_older, y + 1, [[1.0]]], axis=1)[0],',
        f'{width * 2}"y": np.concatenate([g, y], axis=1)[0],',
        f'{width * 2}"mark": np.concatenate([taken + 0 * g, mark], axis=1)[0],',
        *(f'{width * 2}"{x.code}": scalar({printer.doprint(x.expression)}),'
          for x in model.marks if x.symbol.is_Symbol),
        f"{width}}}",
        f"{width}made_of = {{{', '.join(shown)}}}",
        f"{width}return following, made_of",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _next_state(model: ServerEquations, item: Quantity) -> str:
    """Return the code of a state after the step: its rows less what leaves, and new rows."""
    variable = item.symbol
    if variable.is_Symbol:
        gains = [x for x in model.flows if x.destination == variable]
        losses = [x for x in model.flows if x.origin == variable]
        signs = [("+", x) for x in gains] + [("-", x) for x in losses]
        return (
            f"scalar({item.code}{''.join(f' {sign} np.sum(flow_{x.name})' for sign, x in signs)})"
        )
    own = item.code + "".join(f" - flow_{x.name}" for x in model.flows if x.origin == variable)
    new = sorted((x for x in model.flows if _enters(x, variable)), key=_place)
    before = [f"flow_{x.name}" for x in new if _place(x) < 0]
    behind = [f"flow_{x.name}" for x in new if _place(x) > 0]
    return f"np.concatenate([{', '.join([*before, own, *behind])}], axis=1)"


def _enters(flow: Flow, variable: State) -> bool:
    to = flow.destination
    return isinstance(to, sp.Indexed) and to.base == variable.base and to != variable


def _place(flow: Flow) -> int:
    """Return where the new rows of a flow stand: below 0 in front of the others."""
    row = flow.destination.indices[-1]  # type: ignore[union-attr]
    return int(row.subs({ROWS: 1000, QUEUED: 100, r: 1, q: 1}))


def _shape(item: Quantity) -> str:
    slots = item.symbol.indices if isinstance(item.symbol, sp.Indexed) else ()
    sizes = {j: "J", r: "S", q: "P"}
    names = [sizes[slot] for slot in slots]
    return f" ({', '.join(names)}{',' if len(names) == 1 else ''})" if names else ""
