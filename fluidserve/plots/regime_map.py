"""Draw the map of regimes over spread of lengths and prompt per decode, a panel per load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots.style import BLUE, GREEN, INK, ORANGE, VERMILLION, figure, legend_above, note

if TYPE_CHECKING:
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
    from matplotlib.colors import ListedColormap, to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = len(diagram.load)
    columns = min(2, panels)
    rows = -(-panels // columns)
    order = list(COLOURS)
    faint = [_faint(to_rgb(COLOURS[name])) for name in order]
    shown = set(diagram.regime.ravel()) | {point.engine for point in diagram.points}
    with figure(path, 4.4 * columns, 3.35 * rows + 0.7) as drawing:
        grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (k, load) in zip(grid.ravel(), enumerate(diagram.load), strict=False):
            index = np.vectorize(order.index)(diagram.regime[:, :, k])
            axes.pcolormesh(
                diagram.ratio, diagram.cv, index, cmap=ListedColormap(faint), vmin=-0.5,
                vmax=len(order) - 0.5, shading="nearest", rasterized=True,
            )  # fmt: skip
            if diagram.mode == "sacrifice":
                lines = axes.contour(
                    diagram.ratio, diagram.cv, diagram.theta, levels=[0.6, 0.7, 0.8, 0.9, 0.95],
                    colors=INK, linewidths=0.6, alpha=0.55,
                )  # fmt: skip
                axes.clabel(lines, fmt=lambda x: f"{x:g}", fontsize=7, inline_spacing=1)
            axes.contour(
                diagram.ratio, diagram.cv, diagram.max_root, levels=[1.0], colors=INK,
                linewidths=1.6,
            )  # fmt: skip
            for point in diagram.points:
                if point.load == load:
                    axes.plot(
                        point.ratio, point.cv, "o" if point.agrees else "X", clip_on=False,
                        color=COLOURS.get(point.engine, INK), markeredgecolor="white",
                        markeredgewidth=0.8, markersize=7 if point.agrees else 9, zorder=4,
                    )  # fmt: skip
            axes.set(xscale="log", title=f"load {load:g}")
            axes.grid(False)
        ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10) if diagram.ratio[0] <= x]
        for axes in grid[-1]:
            axes.set_xlabel("prompt tokens per decoded token, p / E[D]")
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("CV of the decode lengths")
        handles: dict[str, Any] = {
            NAMES[name]: Patch(color=faint[order.index(name)]) for name in order if name in shown
        }
        handles["edge of stability"] = Line2D([], [], color=INK, lw=1.6)
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
        legend_above(drawing, handles)


def _faint(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (1 - FAINT * (1 - part) for part in colour)
    return red, green, blue
