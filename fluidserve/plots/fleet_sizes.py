"""Draw what fleets of more and fewer instances did: each objective, and what GPUs they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluidserve.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    SKY,
    VERMILLION,
    figure,
    legend_above,
    note,
    plain_ticks,
    unit_named,
)
from fluidserve.words import LATENCY_NAMES

WIDE = 5.0
"""Ratio of the largest to the least value from which an axis of latencies is logarithmic."""

FAR = 30.0
"""Ratio of the most to the fewest instances from which their axis is logarithmic."""

COLUMNS = 3
"""Most panels side by side."""

STRIP = 0.015
"""Half the width of the strip that marks the answer, as a share of the axis."""

BOUNDS = ((GREEN, "-"), (BLUE, "-."), (SKY, ":"))
"""Colour and dash of the lines that GPU time is held against."""


def fleet_sizes(
    columns: Mapping[str, Sequence[Any]],
    path: str | Path,
    *,
    title: str,
    time_unit: str,
    limits: Sequence[tuple[str, float]],
    answer: int | None,
    interval: str,
    gpu: str,
    bounds: Mapping[str, float],
    unknown: bool = False,
) -> None:
    """Draw a panel for each objective over the number of instances, and one of GPU time.

    Parameters
    ----------
    columns
        Of ``replicas.csv``: a row per fleet that was run.
    path
        PNG to write.
    title
        Instance, requests and policy.
    time_unit
        Of the latencies.
    limits
        Column and limit of each objective, in the unit of the column.
    answer
        The least number of instances; None where there is none.
    interval
        Words for what the intervals are.
    gpu
        Label of the axis of GPU time.
    bounds
        Lines of GPU time by their words.
    unknown
        Whether there are no lines because nobody knows them.
    """
    names = list(dict.fromkeys(name for name, _ in limits))
    count = len(names) + 1
    across = min(count, COLUMNS)
    down = -(-count // across)
    hours = columns["gpu_hours"] if np.isfinite(columns["gpu_hours"]).all() else columns["gpu_time"]
    handles: dict[str, Any] = {}
    with figure(path, max(4.0 * across, 8.8), 1.1 + 3.1 * down) as drawing:
        panels = drawing.subplots(down, across, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            _fleets(axes, columns, columns[name], len(limits), handles)
            _limits(axes, [limit for of, limit in limits if of == name], handles)
            _intervals(axes, columns, name, interval, handles)
            words, unit = _named(name, time_unit)
            axes.set(title=words, ylabel=f"{words} [{unit}]")
        axes = panels[len(names)]
        _fleets(axes, columns, hours, len(limits), handles)
        _bounds(axes, columns, hours, bounds, unknown, handles)
        axes.set(title="GPU time of the fleet", ylabel=gpu)
        for axes in panels[:count]:
            _count(axes, np.asarray(columns["replicas"], float), answer, handles)
        for axes in panels[count:]:
            axes.set_axis_off()
        legend_above(drawing, handles, title)


def _named(name: str, time_unit: str) -> tuple[str, str]:
    """Return a statistic as people write it, and its unit."""
    if name == "backlog_growth":
        return "backlog growth", "requests per arrival"
    statistic, _, latency = name.removesuffix("_ms").partition("_")
    unit = "ms" if name.endswith("_ms") else unit_named(time_unit)
    return f"{statistic} {LATENCY_NAMES[latency]}", unit


def _fleets(
    axes: Any, columns: Mapping[str, Any], values: Any, objectives: int, handles: dict[str, Any]
) -> None:
    """Draw a point per fleet: full where it meets all objectives, hollow where it does not."""
    x, y = np.asarray(columns["replicas"], float), np.asarray(values, float)
    met = np.asarray(columns["met"]) == "True"
    which = " all objectives" if objectives > 1 else " the objective"
    for mine, words, filling in (
        (met, f"meets{which}", INK),
        (~met, f"misses{which.replace('all objectives', 'one')}", "white"),
    ):
        if mine.any():
            points = axes.plot(x[mine], y[mine], "o", ms=5, color=INK, mfc=filling, zorder=4)[0]
            handles.setdefault(f"fleet that {words}", points)


def _limits(axes: Any, limits: Sequence[float], handles: dict[str, Any]) -> None:
    for limit in limits:
        line = axes.axhline(limit, color=VERMILLION, lw=1.2, ls=(0, (4, 2)), zorder=2)
        handles.setdefault("objective", line)


def _intervals(
    axes: Any, columns: Mapping[str, Any], name: str, words: str, handles: dict[str, Any]
) -> None:
    """Draw the intervals that are known; the axis is logarithmic where values are far apart."""
    x, y = np.asarray(columns["replicas"], float), np.asarray(columns[name], float)
    low, high = (np.asarray(columns[f"{name}_{end}"], float) for end in ("low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        middle, half = (high + low)[known] / 2, (high - low)[known] / 2
        bars = axes.errorbar(x[known], middle, half, fmt="none", ecolor=GREY, capsize=3, lw=1.2)
        handles.setdefault(words, bars)
    if 0 < WIDE * y.min() < y.max():
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)


def _bounds(
    axes: Any,
    columns: Mapping[str, Any],
    hours: Any,
    bounds: Mapping[str, float],
    unknown: bool,
    handles: dict[str, Any],
) -> None:
    """Draw GPU time from 0 on, and the lines that it is held against."""
    axes.vlines(columns["replicas"], 0, hours, color=INK, lw=1.2)
    for (words, value), (colour, dash) in zip(bounds.items(), BOUNDS, strict=False):
        handles[words] = axes.axhline(value, color=colour, lw=1.5, ls=dash, zorder=2)
    if unknown:
        note(axes, "perfect system: not known")
    axes.set_ylim(bottom=0)


def _count(axes: Any, replicas: Any, answer: int | None, handles: dict[str, Any]) -> None:
    """Label the axis of instances, whole numbers, and mark the answer by a strip."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(replicas.min()), float(replicas.max())
    axes.set_xlabel("instances")
    if high > FAR * low:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        wide = (high / low) ** STRIP
        ends = None if answer is None else (answer / wide, answer * wide)
    else:
        beside = max(0.6, 0.06 * (high - low)) if high > low else 1.0
        axes.set_xlim(low - beside, high + beside)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        wide = max(0.25, STRIP * (high - low))
        ends = None if answer is None else (answer - wide, answer + wide)
    if ends is not None:
        strip = axes.axvspan(*ends, color=PALE, lw=0, zorder=0)
        handles.setdefault(f"answer: {answer:,}", strip)
