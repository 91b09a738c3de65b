"""How far off an answer is expected to be: a table of intervals, and the sentence before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.methods import method_name
from fluidserve.report.page import heading, paragraph, table
from fluidserve.tables.errors import VERDICTS, in_order, main_words
from fluidserve.text import off_by, percent, signed
from ode.error_model.report import TITLES

READING = (
    "Predicted over the engine's mean over many runs, less 1. 90 % of answers like this one are "
    "between the ends; the middle is what is expected."
)


def expected_errors(answer: Mapping[str, Any]) -> list[str]:
    """Return the section of one answer; its sentence alone where nobody knows its error.

    Parameters
    ----------
    answer
        With the keys ``confidence`` and ``error`` of its JSON; without them, of an older version,
        the section is empty.
    """
    error = answer.get("error")
    if error is None:
        return []
    rows = [
        [TITLES[name], off_by(of["low"], of["high"]), signed(of["expected"])]
        for name, of in in_order(error["metrics"])
    ]
    words = f"{error['words'][0].upper()}{error['words'][1:]}."
    said = [heading("How far off this is expected to be"), paragraph(words)]
    head = ["", "interval", "middle"]
    return [*said, table(head, rows, READING)] if rows else said


def errors_beside_the_engine(summary: Mapping[str, Any]) -> list[str]:
    """Return the section of a comparison: what was expected beside what was found."""
    methods = {name: each for name, each in summary["methods"].items() if "found" in each}
    main = main_words(summary)
    if not methods or main is None:
        return []
    rows = [
        [title, *(_cell(each, name) for each in methods.values())] for name, title in TITLES.items()
    ]
    rows.append(["confidence", *(each["confidence"] for each in methods.values())])
    said = [f"Main line: {main}."] + [
        f"{method_name(name)}: {each['found_words']}."
        for name, each in methods.items()
        if each["found_words"] is not None
    ]
    noise = [of["noise"] for each in methods.values() for of in each["found"].values()]
    known = [each for each in noise if each is not None]
    most = f" Its values are known to {percent(max(known))} or better." if known else ""
    return [
        heading("How far off was expected, and was found"),
        *(paragraph(text) for text in said),
        table(
            ["error", *map(method_name, methods)],
            rows,
            "Found, and small: where 90 % of answers like this one are expected, and whether the "
            f"engine is inside of this interval, its own noise (90 %) allowed for.{most}",
        ),
    ]


def _cell(method: Mapping[str, Any], name: str) -> str:
    """Return what was found, and small what was expected and whether it was so."""
    found, of = method["found"].get(name), method["error"]["metrics"].get(name)
    shown = "-" if found is None else signed(found["error"])
    if of is None:
        return f"{shown}\nnot known"
    verdict = VERDICTS[None if found is None else found["inside"]]
    return f"{shown}\n{off_by(of['low'], of['high'])}: {verdict}"
