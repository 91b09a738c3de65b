"""The equations for people: text, LaTeX, or a Python function that runs on its own."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from fluid._array_code import constant_statements, rate_statements
from fluid._equations import Equations, Quantity
from fluid._flows import RANGES, I, J, i, j
from serving import ConfigError

FORMATS = ("text", "latex", "python")

LATEX_NAMES = {
    "d_kv": r"d_{\mathrm{kv}}",
    "d_decode": r"d_{\mathrm{decode}}",
    "d_swap": r"d_{\mathrm{swap}}",
    "evicted_fresh": r"\mathrm{evicted\ fresh}",
    "first_tokens": r"\mathrm{first}",
    "wasted_work": r"\mathrm{wasted\ work}",
}


def render(equations: Equations, format: str = "text") -> str:
    """Return the equations as text, LaTeX or Python source.

    Parameters
    ----------
    equations
        From :func:`fluid.equations`.
    format
        ``text``; ``latex``, a standalone document; ``python``, a module with one function
        ``fluid_rhs`` of NumPy arrays that needs nothing but NumPy.

    Raises
    ------
    ConfigError
        If ``format`` is none of these.
    """
    formats: dict[str, Callable[[Equations], str]] = {
        "text": _text,
        "latex": _latex,
        "python": _python,
    }
    if format not in formats:
        raise ConfigError("format", format, " | ".join(FORMATS))
    return formats[format](equations)


def _text(model: Equations) -> str:
    lines = [
        f"Fluid model of a decode node, mode {model.mode}, transport {model.transport}",
        f"class {j} = 1..{J}, stage {i} = 1..{I} (the token being produced)",
    ]

    def section(title: str, rows: list[str]) -> None:
        lines.extend(["", title, *(f"  {row}" for row in rows)])

    section("State", [_described(item) for item in model.states])
    section("Parameters", [_described(item) for item in model.parameters])
    section("Definitions", [_described(item) for item in (*model.constants, *model.definitions)])
    section(
        "Flows [requests/time]",
        [
            f"{flow.name}: {flow.origin or 'outside'} -> {flow.destination or 'outside'}, "
            f"{flow.symbol} = {flow.rate}  ({flow.condition})"
            for flow in model.flows
        ],
    )
    section(
        "Equations",
        [f"d {item.symbol}/dt = {model.rhs(item.symbol)}" for item in model.states],
    )
    section(
        "Running totals",
        [f"d {item.code}/dt = {item.expression}  [{item.unit}]" for item in model.integrals],
    )
    return "\n".join(lines) + "\n"


def _described(item: Quantity) -> str:
    value = "" if item.expression is None else f" = {item.expression}"
    return f"{item.symbol}{value}  [{item.unit}] {item.meaning}"


def _latex(model: Equations) -> str:
    def tex(expression: sp.Basic | None) -> str:
        names = {sp.Symbol(name): shown for name, shown in LATEX_NAMES.items()}
        known = {
            symbol: names[sp.Symbol(symbol.name)]
            for symbol in sp.sympify(expression).free_symbols
            if isinstance(symbol, sp.Symbol) and sp.Symbol(symbol.name) in names
        }
        return sp.latex(expression, symbol_names=known)

    def rows(pairs: list[tuple[str, str]]) -> list[str]:
        return (
            [r"\begin{align*}"]
            + [rf"  {left} &= {right} \\" for left, right in pairs]
            + [r"\end{align*}"]
        )

    names = ", ".join(f"${tex(item.symbol)}$ {item.meaning}" for item in model.parameters)
    definitions = [
        (tex(item.symbol), tex(item.expression)) for item in (*model.constants, *model.definitions)
    ]
    flows = [(tex(flow.symbol), tex(flow.rate)) for flow in model.flows]
    balances = [
        (rf"\frac{{d}}{{dt}} {tex(item.symbol)}", tex(model.rhs(item.symbol)))
        for item in model.states
    ]
    totals = [
        (rf"\frac{{d}}{{dt}} {tex(item.symbol)}", tex(item.expression)) for item in model.integrals
    ]
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{amsmath}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
        rf"\section*{{Fluid model of a decode node, mode {model.mode}}}",
        rf"Class ${tex(j)} = 1 \ldots {tex(J)}$, stage ${tex(i)} = 1 \ldots {tex(I)}$. "
        rf"Parameters: {names}.",
        r"\subsection*{Definitions}",
        *rows(definitions),
        r"\subsection*{Flows}",
        *rows(flows),
        r"\subsection*{Equations}",
        *rows(balances),
        r"\subsection*{Running totals}",
        *rows(totals),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _python(model: Equations) -> str:
    states = [item.code for item in model.states]
    parameters = [item.code for item in model.parameters if item.code != "arrival_rate"]
    shown = [item for item in model.parameters if item.code in parameters]
    outputs = [f'"{name}": d{name}' for name in states]
    outputs += [f'"{item.code}": d{item.code}' for item in model.integrals]
    reported = [
        f'"{item.code}": {item.code}' for item in model.definitions if item.symbol.is_Symbol
    ]
    width = "    "
    lines = [
        f'"""Fluid model of a decode node, mode {model.mode}: time derivatives from NumPy arrays.',
        "",
        "Generated from the symbolic equations; J classes, I stages (the token being produced).",
        '"""',
        "",
        "import numpy as np",
        "",
        "",
        "def from_previous(x):",
        f"{width}return np.concatenate([np.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)",
        "",
        "",
        "def from_next(x):",
        f"{width}return np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)",
        "",
        "",
        f"def fluid_rhs(arrival_rate, {', '.join(states)}, {', '.join(parameters)}):",
        f'{width}"""Return derivatives of the state and of the running totals, and what sets them.',
        "",
        *(f"{width}{item.code}{_shape(item)}: [{item.unit}] {item.meaning}"
          for item in (*model.states, *shown)),
        f'{width}"""',
        f"{width}i = np.arange(1, q.shape[-1] + 1)",
        *(f"{width}{line}" for line in _standalone(constant_statements(model))),
        *(f"{width}{line}" for line in _standalone(rate_statements(model, grouped=False))),
        f"{width}derivatives = {{{', '.join(outputs)}}}",
        f"{width}return derivatives, {{{', '.join(reported)}}}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _shape(item: Quantity) -> str:
    slots = item.symbol.indices if isinstance(item.symbol, sp.Indexed) else ()
    if not slots:
        return ""
    sizes = [str(RANGES[slot][2]) for slot in slots]
    return f" ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _standalone(statements: list[str]) -> list[str]:
    return [statement.replace("xp.", "np.") for statement in statements]
