"""Table of ``bench``: how fast engine and methods are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.methods import method_name
from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import duration, number


def speed_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``bench``."""
    machine = result["machine"]
    engine = [
        [each["case"], each["records"].replace("requests and batches", "both"),
         number(round(each["requests_per_second"])), number(round(each["batches_per_second"]))]
        for each in result["engine"]
    ]  # fmt: skip
    sizes = [
        [number(each["n"]), number(each["requests"]), duration(each["discrete_seconds"]),
         duration(each["lagrangian_seconds"]), number(each["discrete_over_fluid"])]
        for each in result["fluid_vs_discrete"]
    ]  # fmt: skip
    methods = [
        [method_name(name), duration(each["seconds"])] for name, each in result["methods"].items()
    ]
    return joined(
        pairs([("machine", f"{machine['processor']}, {machine['cores']} cores")]),
        grid(["engine", "records", "requests/s", "batches/s"], engine, left=2),
        grid(["size n", "requests", "one run", "fluid", "ratio"], sizes),
        grid(["method, default node", "one solve"], methods),
    )
