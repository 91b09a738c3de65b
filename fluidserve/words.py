"""Say in a few words what a result is about: the node, the workload, units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from fluidserve.text import instance_line, number

LATENCY_NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2el": "E2EL",
    "queue_delay": "queue delay",
}
"""Names of the latencies that tables show, by key."""


STATIONARY = "stationary"
"""What the latencies of an analysis are where its requests never end: their number says nothing."""


def per_time(unit: str) -> str:
    """Return the unit of an arrival rate."""
    return "requests/time" if unit == "none" else f"requests/{unit}"


def latency_unit(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return the end of the keys of latencies, and their unit."""
    return ("_ms", "ms") if "mean_ttft_ms" in metrics else ("", "time")


def time_words(metrics: Mapping[str, Any], unit: str) -> str:
    """Return the duration of a run with its unit."""
    return f"{number(metrics['duration'])} {'time units' if unit == 'none' else unit}"


def instance_words(instance: Mapping[str, Any]) -> str:
    """Return an instance in one line, from its flat keys."""
    from fluidserve.config import instance_of, load_config

    return instance_line(instance_of(load_config(None, instance)))


def kind_words(instance: Mapping[str, Any]) -> str:
    """Return what sort of node an instance is, from its flat keys: its mode, or its engine."""
    return f"{instance['mode']} mode" if "mode" in instance else f"engine {instance['engine']}"


def source_words(workload: Mapping[str, Any]) -> str:
    """Return what the requests are."""
    if workload.get("file"):
        return PurePath(str(workload["file"])).name
    if workload.get("types"):
        return f"types {workload['types']}"
    if workload.get("lengths"):
        return f"lengths of {PurePath(str(workload['lengths'])).name}"
    return f"scenario {workload['scenario']}" if workload.get("scenario") else "requests"


def title_of(summary: Mapping[str, Any]) -> str:
    """Return what a picture shows, for its title: the node, then requests, load and unit."""
    unit = summary["instance"]["time_unit"]
    times = "times in the unit of the batch-time law" if unit == "none" else f"times in {unit}"
    return f"{instance_words(summary['instance'])}; {times}\n{workload_words(summary)}"


def workload_words(result: Mapping[str, Any]) -> str:
    """Return the requests, their rate and the load of a result."""
    workload, unit = result["workload"], result["instance"]["time_unit"]
    said = [source_words(workload)]
    if workload.get("requests") is not None and result.get("latencies_are") != STATIONARY:
        said.append(f"{number(workload['requests'])} requests")
    if workload.get("mean_arrival_rate") is not None:
        said.append(f"{number(workload['mean_arrival_rate'])} {per_time(unit)}")
    if workload.get("load") is not None:
        said.append(f"load {number(workload['load'])} of capacity {number(workload['capacity'])}")
    return ", ".join(said)


def measured_words(result: Mapping[str, Any]) -> list[str]:
    """Return what a search measured at its answer, one objective each, with its unit."""
    unit = "" if result["time_unit"] == "none" else f" {result['time_unit']}"
    said = []
    for name, value in (result["measured"] or {}).items():
        words, ms, _ = name.partition("_ms")
        if name == "backlog_growth":  # of which only its size counts, not -2e-22
            shown = "-" if value is None else f"{100 * value:.2f} % of arrivals"
            said.append(f"backlog growth {shown.replace('-0.00', '0.00')}")
        else:
            said.append(f"{words.replace('_', ' ')} {number(value)}{' ms' if ms else unit}")
    return said
