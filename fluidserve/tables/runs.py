"""Tables of requests, of a run of the engine and of a fluid solution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.methods import method_name
from fluidserve.tables.errors import expected_grid
from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number, percent
from fluidserve.words import (
    LATENCY_NAMES,
    instance_words,
    latency_unit,
    per_time,
    time_words,
    workload_words,
)

STATISTICS = ("mean", "p50", "p95", "p99")


def latency_grid(metrics: Mapping[str, Any]) -> str:
    """Return the latencies among metrics, a row each; those that nobody has are left out."""
    suffix, unit = latency_unit(metrics)
    rows = []
    for key, name in LATENCY_NAMES.items():
        values = [metrics.get(f"{statistic}_{key}{suffix}") for statistic in STATISTICS]
        if any(value is not None for value in values):
            rows.append([name, *map(number, values)])
    return grid([f"latency [{unit}]", *STATISTICS], rows)


def _totals(result: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return what else a run or a solution says, under its words."""
    metrics, unit = result["metrics"], result["instance"]["time_unit"]
    rate = per_time(unit)
    goodput, evictions = metrics.get("request_goodput"), metrics.get("evictions")
    memory, busy = metrics.get("memory_utilization"), metrics.get("gpu_utilization")
    hits = metrics.get("prefix_cache_hit_rate")
    return [
        ("completed", f"{number(metrics['completed'])} requests in {time_words(metrics, unit)}"),
        ("throughput", f"{number(metrics['request_throughput'])} {rate}, "
                       f"{number(metrics['output_throughput'])} output tokens/{_of(unit)}"),
        ("goodput", None if goodput is None else f"{number(goodput)} {rate}"),
        ("memory in use", None if memory is None else f"{percent(memory)} on average"),
        ("busy", None if busy is None else f"{percent(busy)} of the time"),
        ("prefix cache", None if hits is None else f"{percent(hits)} of prompt tokens found"),
        ("evictions", None if not evictions else number(evictions)),
    ]  # fmt: skip


def _of(unit: str) -> str:
    return per_time(unit).rpartition("/")[2]


def run_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``simulate``."""
    ended = "" if result["finished"] else "; stopped before all requests were done"
    return joined(
        pairs(
            [
                ("discrete run", f"{number(result['batches'])} batches{ended}"),
                ("node", instance_words(result["instance"])),
                ("workload", workload_words(result)),
            ]
        ),
        latency_grid(result["metrics"]),
        pairs([*_totals(result), ("files", result.get("output_dir"))]),
    )


def solution_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``solve``; a list of methods, where that was asked for."""
    if not isinstance(result, Mapping):
        return "\n".join(result)
    return joined(
        pairs(
            [
                answerer(result),
                ("node", instance_words(result["instance"])),
                ("workload", workload_words(result)),
            ]
        ),
        latency_grid(result["metrics"]),
        expected_grid(result),
        pairs([*_totals(result), ("files", result.get("output_dir"))]),
    )


def answerer(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the line of who answers."""
    runs = result["stats"].get("replications") if result["method"] == "engine" else None
    if runs is None:
        return "fluid solution", method_name(result["method"])
    return "engine", f"mean of {number(runs)} runs" if runs > 1 else "one run of these requests"


def requests_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``generate`` and of ``trace convert``."""
    workload = result["workload"]
    dropped = {why: count for why, count in workload.get("dropped", {}).items() if count}
    rate, load = workload.get("mean_arrival_rate"), workload.get("load")
    number_of, last = number(workload["requests"]), number(workload["horizon"])
    return pairs(
        [
            ("requests", f"{number_of}, the last at {last}"),
            ("mean lengths", f"{number(workload['mean_prefill_length'])} prompt and "
                             f"{number(workload['mean_decode_length'])} output tokens"),
            ("mean rate", None if rate is None else number(rate)),
            ("load", None if load is None else f"{number(load)} of capacity"),
            ("format", workload.get("format")),
            ("dropped", "; ".join(f"{n:,} rows: {why}" for why, n in dropped.items()) or None),
            ("file", result["output"]),
        ]
    )  # fmt: skip
