"""Table of ``tune replicas``: the answer, every fleet that was run, GPU-hours and prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number, percent
from fluidserve.words import instance_words, per_time, source_words


def replicas_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``tune replicas``."""
    workload, unit = result["workload"], result["time_unit"]
    head = pairs(
        [
            ("replicas", "-" if result["value"] is None else number(result["value"])),
            ("answer", result["reason"]),
            ("confirmed", _confirmed(result)),
            ("node", instance_words(result["instance"])),
            ("workload", f"{source_words(workload)}, {number(workload['mean_arrival_rate'])} "
                         f"{per_time(unit)}, on average {number(workload['mean_prefill_length'])} "
                         f"prompt and {number(workload['mean_decode_length'])} output tokens"),
            ("fluid guess", number(result["fluid_value"])),
        ]
    )  # fmt: skip
    return joined(head, _sizes(result), _gpu(result), _price(result))


def _confirmed(result: Mapping[str, Any]) -> str | None:
    """Return whether both sides of the answer were run, and how sure their verdicts are."""
    if result["value"] is None:
        return None
    if not result["confirmed"]:
        return "no: one instance less was not run"
    sure = "certain" if result["certain"] else "not certain"
    run = "both sides run" if result["value"] > 1 else "run"
    return f"{run}; {sure} at {100 * result['confidence']:g} %, by {result['certainty_from']}"


def _sizes(result: Mapping[str, Any]) -> str:
    """Return a row per fleet: the mean of each objective, with its standard error."""
    sizes = result["sizes"]
    names = list(sizes[0]["measured"])
    rows = [
        [
            f"{size['replicas']}", "yes" if size["met"] else "no",
            "yes" if size["certain"] else "no", number(size["runs"]),
            *(_with_error(size, name) for name in names),
        ]
        for size in sizes
    ]  # fmt: skip
    shown = [name.replace("_", " ") for name in names]
    return grid(["replicas", "met", "certain", "runs", *shown], rows, left=2)


def _with_error(size: Mapping[str, Any], name: str) -> str:
    error = size["standard_error"].get(name)
    value = number(size["measured"][name])
    return value if error is None else f"{value} +- {error:.2g}"


def _gpu(result: Mapping[str, Any]) -> str:
    gpu, unit = result["gpu"], result["time_unit"]
    if gpu is None:
        return ""
    is_stream = "horizon" not in result["workload"]
    best = gpu["perfect_system"]
    hours = gpu["gpu_hours"] is not None
    key, what = ("gpu_hours", "GPU-hours") if hours else ("gpu_time", "GPU time")
    per = (" an hour" if hours else " a unit of time") if is_stream else ""
    bound = f"not known: {best['reason']}"
    if best["gpu_time"] is not None:
        bound = (
            f"{number(best[key])} at least for any router and any number of instances; "
            f"{number(best['replicas'])} instances at least if their number is fixed"
        )
        if best["switched_gpu_hours"] is not None:
            switched = number(best["switched_gpu_hours"])
            bound += f"; about {switched} with instances switched by the minute"
    of_unit = "" if unit == "none" else f" {unit}"
    lasts = None if is_stream else f"{number(gpu['duration'])}{of_unit}"
    return pairs(
        [
            (what, f"{number(gpu[key])}{per}, {number(gpu['gpus'])} GPUs, executing "
                   f"{percent(gpu['gpu_utilization'])} of the time"),
            ("perfect system", bound),
            ("duration", lasts),
        ]
    )  # fmt: skip


def _price(result: Mapping[str, Any]) -> str:
    price = result["price"]
    if price is None:
        return ""
    prompt = price["per_million_prompt_tokens"]
    return pairs(
        [
            ("price", f"{number(price['total'])} at {number(price['per_gpu_hour'])} per GPU-hour"),
            ("per 1M tokens", f"{number(price['per_million_tokens'])}; prompt {number(prompt)}, "
                              f"output {number(price['per_million_output_tokens'])} "
                              f"({price['split']})"),
        ]
    )  # fmt: skip
