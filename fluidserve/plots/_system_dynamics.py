"""The picture of a system over time: queues, memory, batches, completions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots._style import (
    GREY,
    INK,
    PALE,
    PURPLE,
    Curve,
    figure,
    legend_above,
    note,
    time_label,
)
from fluidserve.plots._style import per_time as rate_unit
from serving import DecodeNode, RateProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

POINTS, WINDOWS = 1000, 60


def system_dynamics(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    instance: DecodeNode,
    profile: RateProfile,
    capacity: float | None = None,
    horizon: float | None = None,
) -> None:
    """Draw offered load, queues, memory, batches, completions and throughput over time.

    Parameters
    ----------
    curves
        Engine and methods, in order of the legend.
    path
        PNG to write.
    instance
        The node; gives limits and units.
    profile
        Expected arrivals.
    capacity : [requests/time]
        lambda_M, drawn beside the offered rate.
    horizon : [time]
        Right end of every axis; the last time of the curves by default.
    """
    unit = instance.time_unit
    end = max(float(c.mean.time[-1]) for c in curves) if horizon is None else horizon
    t = np.linspace(0.0, end, POINTS)
    with figure(path, 11.0, 8.2) as drawing:
        grid = drawing.subplots(3, 3, sharex=True)
        handles: dict[str, Any] = {}
        _offered(grid[0, 0], profile, capacity, end, unit)
        _panel(grid[0, 1], curves, t, "waiting", "WAITING [requests]", handles)
        _panel(grid[0, 2], curves, t, "running", "RUNNING [requests]", handles)
        _panel(grid[1, 0], curves, t, "swapped", "SWAPPED [requests]", handles)
        _panel(grid[1, 1], curves, t, "memory", "KV memory in use", handles, 100 / instance.M_total)
        grid[1, 1].set_ylabel("share of M_total [%]")
        _limit(grid[1, 1], 100.0, "M_total")
        _panel(grid[1, 2], curves, t, "batch_tokens", "batch [tokens]", handles)
        if instance.B is not None and instance.B < 3 * grid[1, 2].get_ylim()[1]:
            _limit(grid[1, 2], instance.B, "budget B")
        duration = "batch duration" + ("" if unit == "none" else f" [{unit}]")
        _panel(grid[2, 0], curves, t, "batch_duration", duration, handles)
        _panel(grid[2, 1], curves, t, "completed", "completed [requests]", handles)
        arrived = grid[2, 1].plot(t, profile.count(t), color=GREY, lw=1.0, ls=(0, (1, 1.5)))[0]
        handles["arrivals"] = arrived
        _throughput(grid[2, 2], curves, end, capacity, unit)
        _shade_pressure(grid, curves, t, handles)
        for axes in grid[2]:
            axes.set_xlabel(time_label(unit))
        grid[0, 0].set_xlim(0, end)
        legend_above(drawing, handles, columns=min(4, len(handles)))


def _panel(
    axes: Axes,
    curves: Sequence[Curve],
    t: NDArray[np.float64],
    output: str,
    title: str,
    handles: dict[str, Any],
    factor: float = 1.0,
) -> None:
    name, _, unit = title.partition(" [")
    axes.set_title(name)
    axes.set_ylabel(f"[{unit}" if unit else "time units")
    for curve in curves:
        if output not in curve.mean.outputs:
            continue
        mean = curve.mean(output, t) * factor
        if curve.spread is not None:
            spread = curve.spread(output, t) * factor
            axes.fill_between(
                t, np.clip(mean - spread, 0, None), mean + spread, color=PALE, lw=0, zorder=1.5
            )
            if curve.runs > 1:
                handles.setdefault("one run: mean ± sd", axes.collections[-1])
        handles.setdefault(curve.label, axes.plot(t, mean, **curve.line)[0])
    axes.set_ylim(bottom=0)


def _offered(
    axes: Axes, profile: RateProfile, capacity: float | None, end: float, unit: str
) -> None:
    edges = np.linspace(0.0, end, WINDOWS + 1)
    axes.stairs(profile.mean_rate_between(edges), edges, color=GREY, lw=1.3)
    axes.set_title("offered rate")
    axes.set_ylabel(rate_unit(unit))
    axes.set_ylim(bottom=0)
    if capacity is not None:
        _limit(axes, capacity, "capacity")


def _throughput(
    axes: Axes, curves: Sequence[Curve], end: float, capacity: float | None, unit: str
) -> None:
    edges = np.linspace(0.0, end, WINDOWS + 1)
    for curve in curves:
        done = curve.mean("completed", edges)
        axes.stairs(np.diff(done) / np.diff(edges), edges, lw=1.3, baseline=None, **curve.line)
    axes.set_title("throughput")
    axes.set_ylabel(rate_unit(unit))
    axes.set_ylim(bottom=0)
    if capacity is not None:
        _limit(axes, capacity, "capacity")


def _limit(axes: Axes, level: float, name: str) -> None:
    axes.axhline(level, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=2)
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, 1.08 * level))
    note(axes, f"dashed: {name}")


def _shade_pressure(
    grid: NDArray[Any], curves: Sequence[Curve], t: NDArray[np.float64], handles: dict[str, Any]
) -> None:
    """Shade, in every panel, the times when memory forces requests out."""
    first = curves[0].mean
    under = first("swapped", t) > 0.02 * max(first("in_system", t).max(), 1e-9)
    if "evicted" in first.outputs:
        under |= np.gradient(first("evicted", t)) > 1e-9
    if not under.any():
        return
    for axes in grid.flat:
        shade = axes.fill_between(
            t, 0, 1, where=under, transform=axes.get_xaxis_transform(), color=PURPLE, alpha=0.10,
            lw=0, zorder=0.5,
        )  # fmt: skip
        handles.setdefault("memory pressure (swapped or evicting)", shade)
