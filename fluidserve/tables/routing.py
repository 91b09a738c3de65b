"""Table of ``route``: for each load a row per policy, the best first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number
from fluidserve.words import per_time

REPORTED = {
    "applied": "taken", "duplicate": "twice", "late": "late", "lost": "lost",
    "unknown": "odd", "silent_corrections": "set", "drift": "drift",
    "drift_at_end": "at end",
}  # fmt: skip
"""Words for what is counted of reports: of requests that nobody had announced, ``odd``."""


def routing_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``route``."""
    rate = f"{number(result['fleet_capacity'])} {per_time(result['time_unit'])}"
    head = pairs(
        [
            ("fleet", f"{result['fleet']}, capacity {rate}"),
            ("requests", f"{number(result['workload']['requests'])} from each of "
                         f"{result['seeds']} seeds"),
            ("signals", result["signals"]),
            ("change", f"of the mean TTFT against {result['against']}, 95 % interval"),
        ]
    )  # fmt: skip
    loads = [each(result, load) for load in result["loads"] for each in (_of_load, _reports)]
    return joined(head, *loads, _capacities(result))


def _of_load(result: Mapping[str, Any], load: float) -> str:
    rows = [row for row in result["policies"] if row["load"] == load]
    rows.sort(key=lambda row: (row["mean_ttft"] is None, row["mean_ttft"]))
    columns = ["mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el"]
    columns += ["goodput"] if result["goodput"] else []
    cells = [
        [row["policy"], *(number(row[name]) for name in columns), _change(row)] for row in rows
    ]
    shown = [name.replace("mean_", "").replace("_", " ").upper() for name in columns]
    shown = [name.replace("P99", "p99").replace("GOODPUT", "goodput") for name in shown]
    return grid([f"load {load:g}", *shown, "change"], cells)


def _change(row: Mapping[str, Any]) -> str:
    change, half = row.get("mean_ttft_change"), row.get("mean_ttft_change_half")
    if change is None:
        return "-"
    return (
        f"{100 * change:+.1f} %" if half is None else f"{100 * change:+.1f} +- {100 * half:.1f} %"
    )


def _reports(result: Mapping[str, Any], load: float) -> str:
    """Return how reports came in, and by how many requests the predictor's belief was off."""
    rows = [
        [row["policy"], *(_count(row[name]) for name in REPORTED)]
        for row in result["reports"]
        if row["load"] == load
    ]
    return grid([f"reports at {load:g}", *REPORTED.values()], rows) if rows else ""


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _capacities(result: Mapping[str, Any]) -> str:
    found = result["capacity"]
    if not found:
        return ""
    names = list(dict.fromkeys(each["slo"] for each in found))
    loads = {(each["policy"], each["slo"]): each["load"] for each in found}
    policies = list(dict.fromkeys(each["policy"] for each in found))
    rows = [[policy, *(number(loads[policy, name]) for name in names)] for policy in policies]
    return grid(["largest load with", *names], rows)
