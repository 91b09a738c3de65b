"""Draw the map of regimes over spread of lengths and prompt per decode, a panel per load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots.style import BLUE, GREEN, INK, ORANGE, VERMILLION, figure, legend_above, note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from studies.phase_diagram import PhaseDiagram

COLOURS = {
    "healthy": GREEN,
    "bistable": ORANGE,
    "backlogged": BLUE,
    "limit_cycle": VERMILLION,
}
NAMES = {
    "healthy": "healthy",
    "bistable": "bistable",
    "backlogged": "backlogged",
    "limit_cycle": "limit cycle",
}
LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95)
"""Throughputs of a collapsed node over its capacity at which lines are drawn."""

FINER = 8
"""Steps of the picture in a step of the map."""

FAINT = 0.38
"""How much of a regime's colour its area has."""


def phase_diagram(diagram: PhaseDiagram, path: str | Path) -> None:
    """Draw the regimes with the edge of stability, and the engine's word at the marked points.

    Parameters
    ----------
    diagram
        Of :func:`studies.phase_diagram.phase_diagram`.
    path
        PNG to write.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = len(diagram.load)
    columns = min(2, panels)
    rows = -(-panels // columns)
    pale = {name: faint(to_rgb(colour)) for name, colour in COLOURS.items()}
    shown = set(diagram.regime.ravel()) | {point.engine for point in diagram.points}
    grid_of = steps(diagram.ratio, log=True), steps(diagram.cv)
    root, theta = refined(diagram.max_root), refined(diagram.theta)
    has_edge = False
    with figure(path, 4.4 * columns, 3.35 * rows + 0.7) as drawing:
        grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.ravel()[panels:]:
            axes.set_axis_off()
        for axes, load in zip(grid.ravel(), diagram.load.tolist(), strict=False):
            axes.set(xscale="log", title=f"load {load:g} of capacity")  # first: it turns the labels
            axes.set(xlim=diagram.ratio[[0, -1]], ylim=(0, diagram.cv[-1]))
            field, level, below, above = border(diagram, load)
            axes.contourf(
                *grid_of, refined(field), levels=[-np.inf, level, np.inf],
                colors=[faint(to_rgb(COLOURS[name])) for name in (below, above)],
            )  # fmt: skip
            if diagram.mode == "sacrifice":
                lines = axes.contour(
                    *grid_of, theta, levels=[x for x in LEVELS if not np.isclose(x, level)],
                    colors=INK, linewidths=0.6, alpha=0.55,
                )  # fmt: skip
                axes.clabel(lines, fmt=lambda x: f"{x:g}", fontsize=7, inline_spacing=1)
            if field.min() < level < field.max():
                has_edge = True
                axes.contour(*grid_of, refined(field), levels=[level], colors=INK, linewidths=1.6)
            if field is not diagram.max_root and root.min() < 1 < root.max():
                axes.contour(
                    *grid_of, root, levels=[1.0], colors=INK, linewidths=1.0, linestyles="dashed"
                )
            for point in diagram.points:
                if point.load == load:
                    axes.plot(
                        point.ratio, point.cv, "o" if point.agrees else "X", clip_on=False,
                        color=COLOURS.get(point.engine, INK), markeredgecolor="white",
                        markeredgewidth=0.8, markersize=7 if point.agrees else 9, zorder=4,
                    )  # fmt: skip
            axes.grid(False)
        ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10) if diagram.ratio[0] <= x]
        for axes in grid.ravel()[max(panels - columns, 0) : panels]:  # the lowest of each column
            axes.set_xlabel("prompt tokens per decoded token, p / E[D]")
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.tick_params(labelbottom=True)
            axes.minorticks_off()
            labels = axes.get_xticklabels()  # the outer ones keep clear of the next panel's
            labels[0].set_horizontalalignment("left")
            labels[-1].set_horizontalalignment("right")
        for axes in grid[:, 0]:
            axes.set_ylabel("CV of the decode lengths")
        handles: dict[str, Any] = {
            NAMES[name]: Patch(color=pale[name]) for name in COLOURS if name in shown
        }
        if has_edge:
            handles["edge of a regime"] = Line2D([], [], color=INK, lw=1.6)
        if min(diagram.load) < 1:
            handles["a full memory settles above"] = Line2D([], [], color=INK, lw=1.0, ls="--")
        if diagram.mode == "sacrifice":
            handles["collapsed throughput / capacity"] = Line2D([], [], color=INK, lw=0.6)
        if diagram.points:
            agreed = sum(point.agrees for point in diagram.points)
            handles["engine agrees"] = Line2D(
                [], [], color=INK, marker="o", lw=0, markeredgecolor="white"
            )
            if agreed < len(diagram.points):
                handles["engine disagrees"] = Line2D(
                    [], [], color=INK, marker="X", lw=0, markeredgecolor="white"
                )
            note(grid[0, -1], f"engine: {agreed} of {len(diagram.points)} points agree")
        legend_above(
            drawing, handles,
            f"mode {diagram.mode}, gamma decode lengths of mean {diagram.mean_decode:g} tokens, "
            "a memory of 10,000 requests",
        )  # fmt: skip


def border(diagram: PhaseDiagram, load: float) -> tuple[NDArray[np.float64], float, str, str]:
    """Return the field whose level separates the regimes at a load, and the names of the two.

    Returns
    -------
    field : shape (C, R)
        Of the map.
    level
        Where one regime ends.
    below, above
        The regimes where the field is below and above the level.
    """
    if load >= 1:
        return diagram.max_root, 1.0, "backlogged", "limit_cycle"
    if diagram.mode == "sacrifice":
        return diagram.theta, load, "bistable", "healthy"
    return diagram.theta, 0.0, "healthy", "healthy"


def steps(axis: NDArray[np.float64], *, log: bool = False) -> NDArray[np.float64]:
    """Return an axis of the map with finer steps."""
    at = np.linspace(0, axis.size - 1, FINER * (axis.size - 1) + 1)
    values = np.interp(at, np.arange(axis.size), np.log(axis) if log else axis)
    return np.exp(values) if log else values


def refined(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a field of the map at finer steps, linear between its cells in CV and log ratio."""
    for _ in range(2):
        rows = np.arange(field.shape[0])
        at = np.linspace(0, rows[-1], FINER * rows[-1] + 1)
        field = np.array([np.interp(at, rows, column) for column in field.T])
    return field


def faint(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the colour of an area whose marks have a colour."""
    red, green, blue = (1 - FAINT * (1 - part) for part in colour)
    return red, green, blue
