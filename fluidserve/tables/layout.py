"""Set rows and columns of text so that they fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fluidserve.text import number

WIDTH = 80
"""Columns of the narrowest terminal."""

GAP = 2
"""Spaces between two columns."""


def joined(*blocks: str) -> str:
    """Return blocks of lines with an empty line between them; empty blocks are left out."""
    return "\n\n".join(block for block in blocks if block)


def pairs(rows: Sequence[tuple[str, str | None]]) -> str:
    """Return names beside their values; a value that is None is left out, a long one wraps."""
    shown = [(name, value) for name, value in rows if value is not None]
    left = max((len(name) for name, _ in shown), default=0) + GAP
    lines = []
    for name, value in shown:
        first, *rest = textwrap.wrap(value, WIDTH - left, break_on_hyphens=False) or [""]
        lines += [f"{name:<{left}}{first}", *(f"{'':<{left}}{line}" for line in rest)]
    return "\n".join(lines)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table whose first columns are text and whose others are numbers.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Cells.
    left
        Columns that are set to the left. Where the table is too wide, the widest of them is cut.
    """
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    over = sum(widths) + GAP * (len(widths) - 1) - WIDTH
    if over > 0:
        widest = max(range(left), key=widths.__getitem__)
        widths[widest] = max(widths[widest] - over, 8)
    lines = []
    for row in table:
        cells = [
            f"{_cut(cell, width):<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * GAP).join(cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "\u2026"


def wrapped(text: str, indent: str = "") -> str:
    """Return a sentence in lines of the width of a terminal, those after the first indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def plain_table(result: Any) -> str:
    """Return the single values of a small result, one a line."""
    if not isinstance(result, Mapping):
        return "\n".join(str(each) for each in result)
    rows = []
    for key, value in result.items():
        if key == "warnings":  # told on stderr
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {number(each)}" for name, each in value.items()) or None
        rows.append((key.replace("_", " "), None if value is None else number(value)))
    return pairs(rows)
