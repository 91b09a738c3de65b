"""Table of ``analyze``: what one node will do, by theory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.errors import expected_grid
from fluidserve.tables.layout import joined, pairs
from fluidserve.tables.runs import latency_grid
from fluidserve.text import number
from fluidserve.words import instance_words, workload_words

MOST = 4
"""Parameters that are named as those that move a latency most."""


def analysis_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``analyze``."""
    unit = result["instance"]["time_unit"]
    found, time = result["equilibrium"], "time units" if unit == "none" else unit
    batch = None
    if found is not None:
        batch = f"{number(found['running'])} requests, {number(found['tau'])} {time} on average"
    return joined(
        pairs(
            [
                ("analysis", "one node by theory"),
                ("node", instance_words(result["instance"])),
                ("workload", workload_words(result)),
                ("regime", result["regime"].replace("_", " ")),
                ("how sure", result["regime_confidence"]["words"]),
                ("capacity is", result["capacity_error"]["words"]),
                ("binds first", result.get("binds")),
                ("full memory", (result["certificate"] or {}).get("message")),
                ("batch", batch),
            ]
        ),
        latency_grid(result["metrics"]),
        expected_grid(result),
        pairs(
            [
                ("latencies", f"of one node, {result['latencies_are']}"),
                ("moved most by", _movers(result["gradients"]["elasticity"])),
                ("capacity moved", _movers(_closed(result), "capacity", "capacity")),
                ("files", result.get("output_dir")),
            ]
        ),
    )


def _closed(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Return the elasticities of capacity and equilibrium, where the model tells them."""
    return result["gradients"].get("closed_form", {}).get("elasticity", {})


def _movers(
    elasticity: Mapping[str, Mapping[str, float]], of: str = "mean_ttft", words: str = "mean TTFT"
) -> str | None:
    """Return what changes a quantity most when it grows by one per cent."""
    shown = elasticity.get(of) or {}
    known = [(name, value) for name, value in shown.items() if value]
    if not known:
        return None
    known.sort(key=lambda each: -abs(each[1]))
    said = ", ".join(f"{name} {value:+.3g} %" for name, value in known[:MOST])
    return f"{words} by +1 % of {said}"
