"""The table of ``validate``: measured against predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number
from fluidserve.words import instance_words

NAMES = {"ttft_ms": "TTFT [ms]", "tpot_ms": "TPOT [ms]", "itl_ms": "ITL [ms]",
         "e2el_ms": "E2EL [ms]"}  # fmt: skip
TOTALS = {"completed": "completed", "makespan": "makespan [s]",
          "request_throughput": "requests/s"}  # fmt: skip
STATISTICS = ("mean", "p50", "p90", "p99")


BESIDE = {"fluid": "fluid model", "one_node": "model of one server"}
"""Models that are shown beside the engine, where they were asked."""


def off(error: float | None) -> str:
    """Return a relative error in percent with its sign."""
    return "-" if error is None or math.isnan(error) else f"{100 * error:+.1f} %"


def score_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per number: its name, measured, predicted, error."""
    rows = []
    for key, name in NAMES.items():
        for statistic in STATISTICS:
            each = scores.get(key, {}).get(statistic)
            if each is not None and _is_told(each["predicted"]):
                rows.append([f"{name} {statistic}", *_cells(each)])
    rows += [[name, *_cells(scores[key])] for key, name in TOTALS.items() if key in scores]
    return rows


def _is_told(predicted: float | None) -> bool:
    """Return whether a model says a number: the fluid model has no inter-token latencies."""
    return predicted is not None and not math.isnan(predicted)


def _cells(each: Mapping[str, Any]) -> list[str]:
    return [number(each["measured"]), number(each["predicted"]), off(each["error"])]


def series_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per series: its name, mean measured, mean predicted, error over time."""
    return [
        [name.replace("_", " "), number(each["measured"]), number(each["predicted"]),
         off(each["nrmse"]).lstrip("+")]
        for name, each in scores["over_time"].items()
    ]  # fmt: skip


def validation_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``validate``."""
    run, scores = result["run"], result["engine"]
    failed = f", {run['failed']:,} failed" if run["failed"] else ""
    return joined(
        pairs(
            [
                ("measured run", f"{run['name']}: {run['requests']:,} requests{failed}"),
                ("node", instance_words(result["instance"])),
                ("law from", result["law_from"]),
                ("matched to", _matched(result["calibration"])),
            ]
        ),
        grid(["", "measured", "predicted", "error"], score_rows(scores)),
        grid(["over time", "measured", "predicted", "NRMSE"], series_rows(scores)),
        *(_beside(words, result.get(name)) for name, words in BESIDE.items()),
        pairs([("assumed", "; ".join(result["assumptions"]) or None),
               ("files", result.get("output_dir"))]),
    )  # fmt: skip


def _beside(words: str, scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return ""
    return grid([words, "measured", "predicted", "error"], score_rows(scores))


def _matched(calibration: Mapping[str, Any] | None) -> str | None:
    if calibration is None:
        return None
    if calibration["until"] is not None:
        return f"the first {number(calibration['until'])} s of the run"
    return ", ".join([*calibration["runs"], *calibration["steps"]])
