"""Tables of what there is: hardware profiles and experiment folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from fluidserve.tables.analysis import analysis_table
from fluidserve.tables.layout import grid, joined, pairs, plain_table, wrapped
from fluidserve.tables.runs import run_table, solution_table
from fluidserve.text import number, percent

TABLES = {"run": run_table, "solution": solution_table, "analysis": analysis_table}
"""Table of an experiment by its kind."""

MOST_METRICS = ("duration", "completed", "request_throughput", "memory_utilization", "evictions")
"""Metrics that a table of experiments shows besides latencies."""


def profiles_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``profiles list``: a row per model and card, its degrees together."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in sorted(result["measured"], key=lambda each: each["model"].lower()):
        found.setdefault((each["model"], each["hardware"]), []).append(each)
    rows = []
    for (model, hardware), each in found.items():
        errors = [one["mape"].get("decode") for one in each if one.get("mape")]
        errors = [error for error in errors if error is not None]
        shown = percent(max(errors, default=None))
        if len(set(errors)) > 1:
            shown = f"{100 * min(errors):.2g}-{shown}"
        capacity = any(one["kv_capacity"] for one in each)
        date = max(one["date"] or "" for one in each)
        rows.append(
            [
                model.rpartition("/")[2], hardware, ",".join(str(one["tp"]) for one in each),
                shown, "measured" if capacity else "estimated", date,
            ]
        )  # fmt: skip
    estimates = result["estimates"]
    error = estimates["expected_error"]
    return joined(
        "Measured batch-time laws (error: mean of decode batches)",
        grid(["model", "card", "--tp", "error", "KV capacity", "date"], rows, left=3),
        wrapped(
            f"Estimates exist for every model on every card, with an error of "
            f"{percent(error['decode'])} on average and {percent(error['decode_worst'])} at worst "
            f"(mixture of experts: {percent(error['mixture'])} and "
            f"{percent(error['mixture_worst'])})."
        ),
        wrapped("Models: " + ", ".join(name.rpartition("/")[2] for name in estimates["models"])),
        wrapped("Cards: " + ", ".join(estimates["hardware"])),
    )


def profile_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``profiles show``."""
    law = {
        key: value for key, value in result["law"].items() if not isinstance(value, list | tuple)
    }
    tables = [key for key, value in result["law"].items() if isinstance(value, list | tuple)]
    units = {"d_0": "ms", "d_decode": "ms/request"}
    origin = [result.get(key) for key in ("origin", "measured", "date")]
    error = result.get("mape") or {}
    said = ", ".join(
        f"{name} {percent(value)}" for name, value in error.items() if isinstance(value, float)
    )
    capacity = result.get("kv_capacity")
    return joined(
        pairs(
            [
                ("profile", f"{result['model']} on {result['tp']} x {result['hardware']}"),
                ("origin", ", ".join(str(each) for each in origin if each)),
                ("error", said or None),
                ("KV capacity", None if capacity is None else f"{number(capacity)} tokens"),
            ]
        ),
        grid(
            ["law", "unit", "value"],
            [*([key, units.get(key, "ms/token"), number(value)] for key, value in law.items()),
             *([key, "ms", f"{len(result['law'][key])} rows"] for key in tables)],
            left=2,
        ),
        _served_table(result.get("vllm_serve")),
        "" if not result.get("source") else pairs([("source", str(result["source"]))]),
    )  # fmt: skip


def _served_table(served: Mapping[str, Any] | None) -> str:
    """Return the part of ``profiles show`` on what vLLM starts with."""
    if served is None:
        return ""
    off = served["kv_capacity_error"]
    origin = served["kv_capacity_origin"] + ("" if off is None else f" within {percent(off)}")
    rows = [[key, str(each["value"]), each["origin"]] for key, each in served["settings"].items()]
    rows.append(["num_gpu_blocks", number(served["num_gpu_blocks"]), origin])
    return grid([f"vllm serve {served['vllm_version']}", "value", "from"], rows, left=1)


def experiments_table(result: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of ``experiments list``."""
    if not result:
        return "there are no experiments"
    rows = []
    for each in result:
        ttft, unit = _latency(each, "mean_ttft")
        e2el, _ = _latency(each, "mean_e2el")
        source = str(each.get("source") or "-")
        rows.append(
            [
                each["experiment"].removeprefix("experiment_"), str(each["kind"]),
                PurePath(source).name, number(each["requests"]), number(each["load"]),
                f"{number(ttft)}{unit}", f"{number(e2el)}{unit}",
            ]
        )  # fmt: skip
    return grid(
        ["experiment", "kind", "source", "requests", "load", "TTFT", "E2EL"], rows, left=3
    )  # fmt: skip


def _latency(row: Mapping[str, Any], key: str) -> tuple[float | None, str]:
    if f"{key}_ms" in row:
        return row[f"{key}_ms"], " ms"
    return row.get(key), ""


def changes_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``experiments compare``: metrics side by side, with their change."""
    names, metrics = result["experiments"], result["metrics"]
    short = [PurePath(name).name.removeprefix("experiment_")[:17] for name in names]
    shown = [
        key for key in metrics
        if key in ("load", "requests", *MOST_METRICS)
        or key.startswith(("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el", "mean_tpot"))
    ]  # fmt: skip
    rows = []
    for key in shown:
        values, change = metrics[key]["values"], metrics[key]["change"]
        others = [
            number(value) if not moved else f"{number(value)} ({100 * moved:+.1f} %)"
            for value, moved in zip(values[1:], change, strict=True)
        ]
        rows.append([key, number(values[0]), *others])
    settings = [[key, *map(str, values)] for key, values in result["settings"].items()]
    return joined(
        grid(["", *short], rows),
        grid(["setting that differs", *short], settings) if settings else "",
    )


def statistics_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``experiments stats``."""
    kinds = ", ".join(f"{number(count)} {kind}" for kind, count in result["kinds"].items())
    keep = ("load", "requests", "mean_ttft", "p99_ttft", "mean_e2el", "request_throughput")
    rows = [
        [key, number(each["count"]), number(each["mean"]), number(each["min"]), number(each["max"])]
        for key, each in result["metrics"].items()
        if key.removesuffix("_ms") in keep
    ]
    return joined(
        pairs(
            [
                ("experiments", f"{number(result['experiments'])}: {kinds}"),
                ("size", f"{number(result['bytes'] / 1e6)} MB"),
            ]
        ),
        grid(["metric", "count", "mean", "least", "most"], rows) if rows else "",
    )


def experiment_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``experiments details``: that of the command that wrote it, and files."""
    meta = result["meta"]
    files = ", ".join(f"{name} ({number(size / 1e3)} kB)" for name, size in result["files"].items())
    return joined(
        pairs(
            [
                ("experiment", result["folder"]),
                ("command", " ".join(meta.get("command", ()))),
                ("finished", meta.get("finished")),
                ("version", meta.get("fluidserve")),
            ]
        ),
        TABLES.get(result.get("kind", ""), plain_table)(result) if "kind" in result else "",
        pairs([("files", files)]),
    )
