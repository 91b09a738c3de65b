"""Draw the tails of one node: the share of requests that wait longer than a given time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidserve.methods import method_name
from fluidserve.plots.style import ENGINES, GREY, PALE, figure, legend_above, time_label
from serving import LatencySamples

NAMES = {"ttft": "TTFT", "e2el": "E2EL", "tpot": "TPOT", "queue_delay": "queue delay"}
LOWEST = 2e-3
"""Share of requests down to which tails are drawn."""


def tails(
    rows: Mapping[str, tuple[Sequence[LatencySamples], Mapping[str, LatencySamples]]],
    path: str | Path,
    *,
    latencies: Sequence[str] = ("ttft", "e2el"),
    time_unit: str = "none",
) -> None:
    """Draw 1 - CDF of latencies, a row per case.

    Parameters
    ----------
    rows
        By title: the engine's replications, pooled here, and predictions by method. The band is
        where the middle 90 % of single runs lie.
    path
        PNG to write.
    latencies
        A column each.
    """
    with figure(path, 5.2 * len(latencies), 2.5 * len(rows) + 0.5) as drawing:
        grid = drawing.subplots(len(rows), len(latencies), squeeze=False)
        handles: dict[str, Any] = {}
        for line, (title, (runs, predicted)) in zip(grid, rows.items(), strict=True):
            for axes, latency in zip(line, latencies, strict=True):
                _panel(axes, latency, runs, predicted, handles)
                axes.set_title(f"{NAMES[latency]}, {title}")
                axes.set_ylabel("share of requests above")
        for axes, latency in zip(grid[-1], latencies, strict=True):
            axes.set_xlabel(time_label(time_unit).replace("time", NAMES[latency], 1))
        legend_above(drawing, handles)


def _panel(
    axes: Any,
    latency: str,
    runs: Sequence[LatencySamples],
    predicted: Mapping[str, LatencySamples],
    handles: dict[str, Any],
) -> None:
    pooled = np.concatenate([run.of(latency)[0] for run in runs])
    top = float(np.quantile(pooled, 1 - LOWEST))
    x = np.geomspace(max(float(pooled.min()), 1e-3 * top), top, 240)
    single = np.array([_above(*run.of(latency), x) for run in runs])
    low, high = np.percentile(single, (5, 95), axis=0)
    handles.setdefault(
        "90 % of single runs",
        axes.fill_between(x, np.maximum(low, LOWEST / 2), high, color=PALE, lw=0, zorder=1.5),
    )
    colour, dash = ENGINES["discrete"]
    whole = _above(pooled, np.ones(pooled.size), x)
    handles.setdefault(
        f"discrete, {len(runs)} runs pooled",
        axes.plot(x, whole, color=colour, ls=dash, lw=3.0, zorder=2.5)[0],
    )
    for method, samples in predicted.items():
        colour, dash = ENGINES.get(method, (GREY, "-"))
        curve = _above(*samples.of(latency), x)
        handles.setdefault(
            method_name(method),
            axes.plot(x, curve, color=colour, ls=dash, lw=1.5, zorder=3)[0],
        )
    for level in (0.5, 0.05, 0.01):
        axes.axhline(level, color=GREY, lw=0.5, ls=":", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(LOWEST, 1.2)


def _above(
    values: NDArray[np.float64], weight: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted share of values above each ``x``."""
    order = np.argsort(values)
    below = np.append(0.0, np.cumsum(weight[order]))
    return 1 - below[np.searchsorted(values[order], x, side="right")] / max(below[-1], 1e-300)
