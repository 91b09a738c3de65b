"""Rows of tables on how far off an answer is expected to be, and was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.methods import method_name
from fluidserve.tables.layout import grid
from fluidserve.text import off_by, signed
from ode.error_model.report import TITLES

VERDICTS = {True: "inside", False: "outside", None: "-"}
"""Whether the engine is inside of an interval; nobody can tell of one run."""

ORDER = {name: place for place, name in enumerate(TITLES)}


def in_order(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the metrics of an error in the order of tables."""
    return sorted(metrics.items(), key=lambda each: ORDER[each[0]])


def expected_grid(answer: Mapping[str, Any]) -> str:
    """Return the intervals of an answer, a row each; empty where nobody knows its error."""
    rows = [
        [TITLES[name], off_by(of["low"], of["high"]), signed(of["expected"])]
        for name, of in in_order((answer.get("error") or {}).get("metrics", {}))
    ]
    head = [f"off by, confidence {answer.get('confidence')}", "90 % of answers", "middle"]
    return grid(head, rows) if rows else ""


def main_words(result: Mapping[str, Any]) -> str | None:
    """Return which method of a comparison leads, and why; None where none is known to."""
    main = result.get("main")
    return None if main is None else f"{method_name(main['method'])}: {main['words']}"


def expected_and_found(name: str, method: Mapping[str, Any]) -> str:
    """Return what a method expected of its error beside what was found; empty if nothing."""
    rows = []
    for key, of in in_order(method["error"]["metrics"]):
        found = method["found"].get(key)
        verdict = VERDICTS[None if found is None else found["inside"]]
        shown = "-" if found is None else signed(found["error"])
        rows.append([TITLES[key], off_by(of["low"], of["high"]), shown, verdict])
    head = [f"{method_name(name)} off by", "expected (90 %)", "found", "engine is"]
    return grid(head, rows) if rows else ""
