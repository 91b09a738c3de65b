"""Table of ``prefix-cache``: a row for each size of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number
from fluidserve.words import per_time, source_words


def prefix_cache_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``prefix-cache``."""
    if result["kind"] == "prefix_cache_states":
        return _states_table(result)
    workload = result["workload"]
    size = result["block_size"]
    rate = f"{number(workload['mean_arrival_rate'])} {per_time(result['time_unit'])}"
    head = pairs(
        [
            ("requests", f"{number(workload['requests'])} of {source_words(workload)}, {rate}, "
                         f"{number(workload['mean_prefill_length'])} prompt tokens"),
            ("an endless memory", f"finds {_share(result['hit_share_of_endless_memory'])} of the "
                                  "prompts"),
            *((f"{100 * float(part):g} % of that", f"{number(round(blocks))} blocks, "
               f"{number(round(blocks * size))} tokens")
              for part, blocks in result["blocks_for"].items()),
        ]
    )  # fmt: skip
    is_server = "load" in result["points"][0]
    columns = ["blocks", "tokens", "hit share"]
    if is_server:
        columns += ["held by running", "load", "step time"]
    own = result["num_gpu_blocks"]
    rows = []
    for each in result["points"]:
        row = [number(each["blocks"]), number(each["tokens"]), _share(each["hit_share"])]
        if is_server:
            row += [
                _share(each["held_share"]), number(each["load"]), number(each["step_time"]),
            ]  # fmt: skip
        if own is not None and each["blocks"] == own - 1:
            row[0] = f"* {row[0]}"
        rows.append(row)
    last = "* the memory of this server" if any(row[0].startswith("*") for row in rows) else ""
    return joined(head, grid(columns, rows, left=0), last)


def _states_table(result: Mapping[str, Any]) -> str:
    """Return a row for each size and state of a server whose clients wait."""
    unit, rows = per_time(result["time_unit"]), []
    for each in result["states"]:
        for name in ("without_backlog", "with_backlog"):
            state = each[name]
            rows.append(
                [name.replace("_", " "), number(each["blocks"]), _share(state["hit_share"]),
                 number(state["load"])]
            )  # fmt: skip
    bands = [
        (f"{number(each['blocks'])} blocks",
         f"both states last from {number(each['both_states_last'][0])} to "
         f"{number(each['both_states_last'][1])} {unit}")
        for each in result["states"]
    ]  # fmt: skip
    head = [("requests", f"{number(result['workload']['mean_arrival_rate'])} {unit}")]
    return joined(pairs(head), grid(["state", "blocks", "hit share", "load"], rows), pairs(bands))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
