"""Table of ``bench predictor``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined
from fluidserve.text import number


def predictor_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``bench predictor``; times are in microseconds."""
    many = result["candidates"]
    rows = [
        [words, number(result[key]["p50"]), number(result[key]["p99"])]
        for words, key in (
            (f"TTFT of {many} candidates", f"ttft_{many}_us"),
            (f"TTFT and E2EL of {many} candidates", f"e2e_{many}_us"),
            ("one candidate, forecast made anew", "no_reuse_us"),
            ("one request on forks of the engine", "reference_us"),
        )
    ]
    rates = result["predictions_per_s"]
    sizes = [[size, number(value)] for size, value in result["no_reuse_us_by_requests"].items()]
    fleets = [
        [size, number(each["ttft"]), number(each["e2e"])]
        for size, each in result["us_by_instances"].items()
    ]
    return joined(
        grid(["forecasts shared (reuse)", "p50 [us]", "p99 [us]"], rows),
        grid(
            ["candidates in one call", "per second"],
            [["TTFT", number(rates["ttft"])], ["TTFT and E2EL", number(rates["e2e"])]],
        ),
        grid(["requests on an instance", "forecast made anew [us]"], sizes),
        grid(["instances asked", "TTFT [us]", "E2EL [us]"], fleets),
    )
