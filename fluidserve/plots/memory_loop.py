"""Draw what a full memory does to a node: the loop, one collapse, the effect of a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fluidserve.plots.style import BLUE, GREEN, GREY, INK, VERMILLION, figure, from_zero, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ode import Hysteresis
    from studies.full_memory import Branches, ThresholdRow

ENGINE: dict[str, Any] = {"ls": "", "markeredgecolor": "white", "markeredgewidth": 0.8, "zorder": 4}


def full_memory(
    loop: Hysteresis,
    branches: Branches,
    paths: Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]],
    rows: Sequence[ThresholdRow],
    settled: tuple[NDArray[np.float64], NDArray[np.float64]],
    path: str | Path,
    *,
    arrival_rate: float,
) -> None:
    """Draw the hysteresis loop, one collapse, and throughput and wait over the threshold.

    Parameters
    ----------
    loop
        Of :func:`ode.hysteresis`.
    branches
        Of the engine at the same rates.
    paths
        Times and requests in the system of one engine run, by admission threshold.
    rows
        Of :func:`studies.full_memory.threshold_table`.
    settled
        Thresholds and throughput from an endless queue, of the fluid.
    path
        PNG to write.
    arrival_rate : [requests/time]
        Of ``paths`` and ``rows``.
    """
    with figure(path, 10.4, 7.4) as drawing:
        grid = drawing.subplots(2, 2, gridspec_kw={"wspace": 0.06, "hspace": 0.07})
        _loop(grid[0, 0], loop, branches)
        _paths(grid[0, 1], paths, arrival_rate)
        _throughput(grid[1, 0], rows, settled, arrival_rate)
        _wait(grid[1, 1], rows)


def _loop(axes: Axes, loop: Hysteresis, branches: Branches) -> None:
    rate, done, top = loop.arrival_rate, loop.throughput, loop.top
    if loop.window is not None:
        axes.axvspan(*loop.window, color="#f4efe2", lw=0, zorder=0)
        axes.annotate(
            "bistable", (float(np.mean(loop.window)), 0.97), xycoords=("data", "axes fraction"),
            ha="center", va="top", color=GREY, fontsize=8.5,
        )  # fmt: skip
    axes.plot(rate[: top + 1], done[: top + 1], color=BLUE, label="fluid, load rising")
    axes.plot(rate[top:], done[top:], color=VERMILLION, label="fluid, load falling")
    for first, colour in ((top // 2, BLUE), (top + top // 2, VERMILLION)):
        _arrow(axes, rate[first : first + 2], done[first : first + 2], colour)
    _arrow(axes, rate[top - 1 : top + 1], done[top - 1 : top + 1], BLUE)
    inside = branches.from_backlog < branches.arrival_rate
    axes.plot(
        branches.arrival_rate, branches.from_empty, "o", color=BLUE, label="engine, from empty",
        **ENGINE,
    )  # fmt: skip
    axes.plot(
        branches.arrival_rate[inside], branches.from_backlog[inside], "s", color=VERMILLION,
        label="engine, from a backlog", markersize=5, **ENGINE,
    )  # fmt: skip
    axes.set(
        title="A full memory does not let go", xlabel="arrival rate [requests per time unit]",
        ylabel="completions per time unit",
    )  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.93))


def _arrow(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> None:
    axes.annotate(
        "", xy=(float(0.4 * x[0] + 0.6 * x[1]), float(0.4 * y[0] + 0.6 * y[1])),
        xytext=(float(0.6 * x[0] + 0.4 * x[1]), float(0.6 * y[0] + 0.4 * y[1])),
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.5}, zorder=3,
    )  # fmt: skip


def _paths(
    axes: Axes,
    paths: Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]],
    arrival_rate: float,
) -> None:
    colours = (VERMILLION, GREEN, BLUE, GREY)
    for (threshold, (time, present)), colour in zip(paths.items(), colours, strict=False):
        axes.plot(time, present, color=colour, lw=1.2, label=f"threshold {threshold:g}")
    from_zero(axes)
    axes.set_xlim(left=0)
    axes.set(title="One path of arrivals, two thresholds", xlabel="time",
             ylabel="requests in the system")  # fmt: skip
    axes.legend(loc="upper left")
    note(axes, f"engine, {arrival_rate:g} per time unit")


def _throughput(
    axes: Axes,
    rows: Sequence[ThresholdRow],
    settled: tuple[NDArray[np.float64], NDArray[np.float64]],
    arrival_rate: float,
) -> None:
    axes.axhline(arrival_rate, color=GREY, lw=0.8, ls="--")
    axes.annotate(
        "arrivals", (1.0, arrival_rate), xytext=(0, 3), textcoords="offset points", ha="right",
        color=GREY, fontsize=8.5,
    )  # fmt: skip
    axes.plot(*settled, color=VERMILLION, label="fluid, endless queue")
    axes.plot(
        [row.threshold for row in rows], [row.engine.throughput for row in rows], "s",
        color=INK, label="engine, from 3,000 waiting", markersize=5, **ENGINE,
    )  # fmt: skip
    axes.set(title="What a full node completes", xlabel="admission threshold",
             ylabel="completions per time unit")  # fmt: skip
    axes.legend(loc="lower left")


def _wait(axes: Axes, rows: Sequence[ThresholdRow]) -> None:
    threshold = [row.threshold for row in rows]
    wait = [row.wait for row in rows]
    axes.errorbar(
        threshold, wait, [2 * row.wait_error for row in rows], fmt="o", color=INK, capsize=3, ms=5
    )
    for row in rows:
        axes.annotate(
            f"{row.collapsed:.0%}", (row.threshold, row.wait), xytext=(7, 3),
            textcoords="offset points", fontsize=8, color=VERMILLION if row.collapsed else GREEN,
        )  # fmt: skip
    axes.set(
        title="Wait from an empty start", xlabel="admission threshold",
        ylabel="mean wait until admission [time]", yscale="log", xlim=(min(threshold) - 0.04, 1.07),
    )  # fmt: skip
    axes.set_ylim(0.4 * min(wait), 4 * max(wait))
    note(axes, "beside each point: runs that evicted")
