"""Table of ``compare``: the engine's mean beside each fluid method, and how far they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.methods import method_name
from fluidserve.tables.errors import expected_and_found, main_words
from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import deviation, duration, number, percent
from fluidserve.words import instance_words, latency_unit, per_time, workload_words

ROWS = (
    ("mean_ttft", "TTFT mean"),
    ("p99_ttft", "TTFT p99"),
    ("mean_tpot", "TPOT mean"),
    ("mean_e2el", "E2EL mean"),
    ("p99_e2el", "E2EL p99"),
)


def comparison_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``compare``."""
    discrete, methods, main = result["discrete"], result["methods"], result["main"]
    truth, unit = discrete["metrics"], result["instance"]["time_unit"]
    suffix, latencies = latency_unit(truth)
    rows = []
    for key, words in ROWS:
        value = truth.get(key + suffix)
        cells = [_against(each["metrics"].get(key + suffix), value) for each in methods.values()]
        rows.append([words, number(value), *cells])
    name = "request_throughput"
    cells = [_against(each["metrics"].get(name), truth[name]) for each in methods.values()]
    rows.append([per_time(unit), number(truth[name]), *cells])
    errors = [percent(each["nrmse"]["in_system"]) for each in methods.values()]
    floor = percent(discrete["noise_floor"]["in_system"])
    rows.append(["NRMSE in system", f"noise {floor}", *errors])
    took = [duration(each["seconds"]) for each in methods.values()]
    rows.append(["time of one run", duration(discrete["seconds"]), *took])
    return joined(
        pairs(
            [
                ("comparison", f"{discrete['replications']} runs of the engine next to "
                               f"{', '.join(map(method_name, methods))}"),
                ("node", instance_words(result["instance"])),
                ("workload", workload_words(result)),
                ("main line", main_words(result)),
            ]
        ),
        grid([f"latencies [{latencies}]", "engine", *map(method_name, methods)], rows),
        "" if main is None else expected_and_found(main["method"], methods[main["method"]]),
        pairs([*_trust(methods), ("files", result.get("output_dir"))]),
    )  # fmt: skip


def _trust(methods: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return how far each method is to be trusted, and whether the runs agree."""
    return [
        (method_name(name), f"confidence {each['confidence']}; {each['found_words']}")
        for name, each in methods.items()
        if each["found_words"] is not None
    ]


def _against(value: float | None, truth: float | None) -> str:
    if value is None or truth is None or abs(truth) < 1e-9:
        return number(value)
    return f"{number(value)} ({deviation(value, truth)})"
