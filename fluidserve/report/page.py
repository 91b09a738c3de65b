"""Build the frame of a report (style, header, figures, tables) without knowing its subject."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { --ink: #1a1a1a; --soft: #5f6368; --line: #e3e5e8; --accent: #0072B2; --wash: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 15.5px/1.55 "Source Sans 3", "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 48px 28px 72px; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 16px; margin-bottom: 26px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
p { margin: 8px 0; max-width: 78ch; }
.lead { font-size: 17.5px; max-width: 74ch; }
.soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 14px;
  margin: 24px 0 8px; }
.card { background: var(--wash); border: 1px solid var(--line); border-radius: 8px;
  padding: 13px 16px; }
.card b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums;
  color: var(--accent); }
.card span { color: var(--soft); font-size: 13.5px; }
.note { border-left: 4px solid #E69F00; background: #fff8ea; padding: 10px 16px; margin: 16px 0;
  border-radius: 0 6px 6px 0; }
figure { margin: 18px 0 8px; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13.5px; margin-top: 6px; max-width: 90ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
.columns td { white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody tr:hover { background: var(--wash); }
caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: 13.5px;
  padding-top: 8px; white-space: normal; }
small { color: var(--soft); }
td small { display: inline-block; min-width: 4.2em; }
.columns { display: grid; gap: 0 36px;
  grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); }
h3 { font-size: 15px; margin: 18px 0 0; }
code { background: var(--wash); border-radius: 4px; padding: 1px 5px; font-size: 13.5px;
  overflow-wrap: anywhere; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 11.5px; } main { padding: 0; max-width: none; } h2 { margin-top: 22px; }
  figure, table, .card { break-inside: avoid; } h2 { break-after: avoid; }
  .cards { grid-template-columns: repeat(4, 1fr); } table { font-size: 10.5px; }
  th, td { padding: 3px 6px; }
}
"""


def page(title: str, subtitle: str, body: Sequence[str]) -> str:
    """Return a whole HTML page; ``title`` and ``subtitle`` are text, ``body`` is HTML."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            "<body><main>",
            f'<header><h1>{escape(title)}</h1><div class="soft">{escape(subtitle)}</div></header>',
            *body,
            "</main></body></html>",
            "",
        ]
    )


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """Return headline figures, each a value over its words."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(words)}</span></div>'
        for value, words in figures
    )
    return f'<div class="cards">{inner}</div>'


def picture(path: Path, alt: str, caption: str) -> str:
    """Return a picture embedded in the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", *, plain: bool = False
) -> str:
    """Return a table; what follows a newline in a cell is small.

    Parameters
    ----------
    plain
        Leave out the head.
    """
    cells = "".join(f"<th>{_cell(each, '<br>')}</th>" for each in head)
    top = "" if plain else f"<thead><tr>{cells}</tr></thead>"
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(c, ' ')}</td>" for c in row) + "</tr>" for row in rows
    )
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{words}{top}<tbody>{body}</tbody></table></div>'


def _cell(text: str, between: str) -> str:
    first, _, rest = text.partition("\n")
    return escape(first) + (f"{between}<small>{escape(rest)}</small>" if rest else "")


def heading(text: str) -> str:
    """Return a section heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"
