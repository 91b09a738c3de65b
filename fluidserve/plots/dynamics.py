"""Draw a system over time: queues, memory, batches, completions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots.style import (
    BAND_LABEL,
    GREY,
    INK,
    PURPLE,
    SWAPS_NOBODY,
    Curve,
    band,
    expected_band,
    figure,
    from_zero,
    legend_above,
    note,
    say,
    time_label,
)  # fmt: skip
from fluidserve.plots.style import per_time as rate_unit
from serving import Instance, RateProfile, Trajectory, kind_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

POINTS, WINDOWS = 1000, 60


def system_dynamics(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    instance: Instance,
    profile: RateProfile,
    capacity: float | None = None,
    horizon: float | None = None,
    rate_windows: int | None = WINDOWS,
    title: str = "",
) -> None:
    """Draw rates, queues, requests in system, memory, batches and completions over time.

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
    rate_windows
        Windows over which the offered rate is averaged; None takes the knots of ``profile``.
    title
        What is shown: the node, the load, the unit.
    """
    unit, kind = instance.time_unit, kind_of(instance)
    limits = kind.limits(instance)
    end = max(float(c.mean.time[-1]) for c in curves) if horizon is None else horizon
    t = np.linspace(0.0, end, POINTS)
    with figure(path, 11.0, 8.2) as drawing:
        grid = drawing.subplots(3, 3, sharex=True)
        handles: dict[str, Any] = {}
        _rates(grid[0, 0], curves, profile, rate_windows, capacity, end, unit, handles)
        _panel(grid[0, 1], curves, t, "waiting", "WAITING [requests]", handles)
        _panel(grid[0, 2], curves, t, "running", "RUNNING [requests]", handles)
        _panel(grid[1, 0], curves, t, "swapped", "SWAPPED [requests]", handles)
        if not kind.swaps:
            say(grid[1, 0], SWAPS_NOBODY)
        memory = limits["memory"]
        _panel(grid[1, 1], curves, t, "memory", "KV memory in use", handles, 100 / memory.value)
        grid[1, 1].set_ylabel(f"share of {memory.words} [%]")
        _limit(grid[1, 1], 100.0, memory.words)
        _panel(grid[1, 2], curves, t, "batch_tokens", "batch [tokens]", handles)
        budget = limits.get("batch_tokens")
        if budget is not None and budget.value < 3 * grid[1, 2].get_ylim()[1]:
            _limit(grid[1, 2], budget.value, budget.words)
        duration = "batch duration" + ("" if unit == "none" else f" [{unit}]")
        _panel(grid[2, 0], curves, t, "batch_duration", duration, handles)
        _panel(grid[2, 1], curves, t, "completed", "completed [requests]", handles)
        arrived = grid[2, 1].plot(t, profile.count(t), color=GREY, lw=1.0, ls=(0, (1, 1.5)))[0]
        handles.setdefault("arrivals", arrived)
        _panel(grid[2, 2], curves, t, "in_system", "in system [requests]", handles)
        _shade_pressure(grid, curves, t, handles)
        for axes in grid[2]:
            axes.set_xlabel(time_label(unit))
        grid[0, 0].set_xlim(0, end)
        legend_above(drawing, handles, title)


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
        shown = while_batches(curve, t) if output == "batch_duration" else t
        mean = curve.mean(output, shown) * factor
        filled = band(axes, curve, output, shown, factor)
        if filled is not None:
            handles.setdefault(BAND_LABEL, filled)
        handles.setdefault(curve.label, axes.plot(shown, mean, **curve.line)[0])
        expected_band(axes, curve, output, shown, handles)
    if not any(output in curve.mean.outputs for curve in curves):
        say(axes, "not computed by this method")
    from_zero(axes)


def while_batches(curve: Curve, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times of ``t`` from the first batch (of nearly every run) to the last.

    Outside them there is no batch whose duration could be shown, and 0 is none.
    """
    for trajectory in (curve.low, curve.mean):
        if trajectory is not None:
            during = trajectory.time[trajectory.outputs["batch_duration"] > 0]
            if during.size:
                return t[(t >= during[0]) & (t <= during[-1])]
    return t


def _rates(
    axes: Axes,
    curves: Sequence[Curve],
    profile: RateProfile,
    windows: int | None,
    capacity: float | None,
    end: float,
    unit: str,
    handles: dict[str, Any],
) -> None:
    """Draw the offered rate, and the throughput of every curve, against the capacity."""
    inside = profile.time[(profile.time > 0) & (profile.time < end)]
    edges = np.concatenate([[0.0], np.unique(inside), [end]])
    if windows is not None:
        edges = np.linspace(0.0, end, windows + 1)
    offered = axes.stairs(
        profile.mean_rate_between(edges), edges, baseline=None, color=GREY, lw=1.0,
        ls=(0, (1, 1.5)),
    )  # fmt: skip
    handles["arrivals"] = offered
    edges = np.linspace(0.0, end, WINDOWS + 1)
    for curve in curves:
        done = curve.mean("completed", edges)
        axes.stairs(np.diff(done) / np.diff(edges), edges, baseline=None, **curve.line)
    axes.set_title("offered and served rate")
    axes.set_ylabel(rate_unit(unit))
    from_zero(axes)
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
    spans = pressure_spans(curves[0].mean, t)
    if not spans:
        return
    for axes in grid.flat:
        for start, stop in spans:
            shade = axes.axvspan(start, stop, color=PURPLE, alpha=0.16, lw=0, zorder=0.5)
            handles.setdefault("memory pressure (swapped or evicting)", shade)


def pressure_spans(
    trajectory: Trajectory, t: NDArray[np.float64], gap: float = 0.03
) -> list[tuple[float, float]]:
    """Return the spans of time in which memory forces requests out.

    Parameters
    ----------
    trajectory
        With ``swapped`` and ``in_system``, and ``evicted`` where it is known.
    t : shape (T,) [time]
        Uniform grid to look at.
    gap
        Spans closer than this share of ``t`` are one.
    """
    if "swapped" not in trajectory.outputs:  # a model that knows nothing of memory pressure
        return []
    under = trajectory("swapped", t) > 0.01 * max(trajectory("in_system", t).max(), 1e-9)
    if "evicted" in trajectory.outputs:
        evicted = trajectory("evicted", t)
        under |= np.gradient(evicted, t) * (t[-1] - t[0]) > 0.05 * max(evicted[-1], 1.0)
    spans: list[tuple[float, float]] = []
    for time in t[under].tolist():
        if spans and time - spans[-1][1] <= gap * (t[-1] - t[0]):
            spans[-1] = (spans[-1][0], time)
        else:
            spans.append((time, time))
    return [span for span in spans if span[1] > span[0]]
