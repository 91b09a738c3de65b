"""The equations for people: text, LaTeX, or a Python function that runs on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from fluid._array_code import constant_statements, rate_statements
from fluid._equations import Equations, Quantity
from fluid._flows import QUEUED, RANGES, ROWS, I, J, i, j, q, r
from fluid.prompt_server.step_code import step_source
from fluid.prompt_server.symbols import ServerEquations
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


AnyEquations = Equations | ServerEquations


@dataclass(frozen=True, slots=True)
class _Words:
    """How a model calls itself, its indices, the change of a state and the unit of its flows."""

    title: str
    section: str
    indices: str
    indices_latex: str
    change: str
    change_latex: str
    per: str


def _words(model: AnyEquations) -> _Words:
    if isinstance(model, Equations):
        title = f"Fluid model of a decode node, mode {model.mode}"
        return _Words(
            f"{title}, transport {model.transport}", title,
            f"class {j} = 1..{J}, stage {i} = 1..{I} (the token being produced)",
            rf"Class ${sp.latex(j)} = 1 \ldots {sp.latex(J)}$, "
            rf"stage ${sp.latex(i)} = 1 \ldots {sp.latex(I)}$.",
            "d {}/dt", r"\frac{{d}}{{dt}} {}", "time",
        )  # fmt: skip
    kind = "in steps of their own" if model.prompts_apart else "beside decodes"
    title = f"Fluid model of a server that computes its own prompts {kind}, one step"
    rows = f"row {r} = 1..{ROWS} of RUNNING, row {q} = 1..{QUEUED} of PREEMPTED"
    return _Words(
        title, title,
        f"class {j} = 1..{J}, {rows}; new rows stand before 1 or behind the last",
        rf"Class ${j} = 1 \ldots {J}$, row ${r} = 1 \ldots {ROWS}$ of RUNNING, "
        rf"row ${q} = 1 \ldots {QUEUED}$ of PREEMPTED.",
        "change of {}", r"\Delta {}", "step",
    )  # fmt: skip


def _marks(model: AnyEquations) -> tuple[Quantity, ...]:
    """Return what the rows of a model carry besides requests."""
    return () if isinstance(model, Equations) else model.marks


def render(equations: AnyEquations, format: str = "text") -> str:
    """Return the equations as text, LaTeX or Python source.

    Parameters
    ----------
    equations
        From :func:`fluid.equations` or :func:`fluid.server_equations`.
    format
        ``text``; ``latex``, a standalone document; ``python``, a module with one function of NumPy
        arrays, ``fluid_rhs`` or ``server_step``, that needs nothing but NumPy.

    Raises
    ------
    ConfigError
        If ``format`` is none of these.
    """
    formats: dict[str, Callable[[AnyEquations], str]] = {
        "text": _text,
        "latex": _latex,
        "python": _source,
    }
    if format not in formats:
        raise ConfigError("format", format, " | ".join(FORMATS))
    return formats[format](equations)


def _source(model: AnyEquations) -> str:
    return _python(model) if isinstance(model, Equations) else step_source(model)


def _text(model: AnyEquations) -> str:
    words = _words(model)
    lines = [words.title, words.indices]

    def section(title: str, rows: list[str]) -> None:
        lines.extend(["", title, *(f"  {row}" for row in rows)])

    section("State", [_described(item) for item in model.states])
    section("Parameters", [_described(item) for item in model.parameters])
    section("Definitions", [_described(item) for item in (*model.constants, *model.definitions)])
    section(
        f"Flows [requests/{words.per}]",
        [
            f"{flow.name}: {flow.origin or 'outside'} -> {flow.destination or 'outside'}, "
            f"{flow.symbol} = {flow.rate}  ({flow.condition})"
            for flow in model.flows
        ],
    )
    section(
        "Equations",
        [f"{words.change.format(item.symbol)} = {model.rhs(item.symbol)}" for item in model.states],
    )
    if _marks(model):
        section("Afterwards", [_described(item) for item in _marks(model)])
    section(
        "Running totals",
        [
            f"{words.change.format(item.code)} = {item.expression}  [{item.unit}]"
            for item in model.integrals
        ],
    )
    return "\n".join(lines) + "\n"


def _described(item: Quantity) -> str:
    value = "" if item.expression is None else f" = {item.expression}"
    return f"{item.symbol}{value}  [{item.unit}] {item.meaning}"


def _latex(model: AnyEquations) -> str:
    words = _words(model)

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
        (words.change_latex.format(tex(item.symbol)), tex(model.rhs(item.symbol)))
        for item in model.states
    ]
    totals = [
        (words.change_latex.format(tex(item.symbol)), tex(item.expression))
        for item in model.integrals
    ]
    marks = [(tex(item.symbol), tex(item.expression)) for item in _marks(model)]
    after = [r"\subsection*{Afterwards}", *rows(marks)] if marks else []
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{amsmath}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
        rf"\section*{{{words.section}}}",
        f"{words.indices_latex} Parameters: {names}.",
        r"\subsection*{Definitions}",
        *rows(definitions),
        r"\subsection*{Flows}",
        *rows(flows),
        r"\subsection*{Equations}",
        *rows(balances),
        *after,
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
