"""Draw the map of regimes of a server that computes its own prompts, a panel per load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots.regime_map import COLOURS, NAMES, faint, refined, steps
from fluidserve.plots.style import INK, figure, legend_above, note
from fluidserve.text import instance_line
from ode.prompt_server.queued import IN_STEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from studies.server_map import ServerMap

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
LIMITS = {"KV blocks": "KV", "max_num_seqs": "seats", "max_num_batched_tokens": "tokens"}
"""Short names of the limits, for regions of the map."""

LEVELS = (0.9, 0.95, 1.1, 1.3, 1.6)
"""Completions from a queue over capacity at which lines are drawn."""

NEUTRAL = 1e-7
"""Distance of a root from 1 within which swings neither grow nor settle."""

NARROW = 0.12
"""Share of the width of a panel below which a region has no name in it."""


def server_regimes(found: ServerMap, path: str | Path, *, server: str = "") -> None:
    """Draw regimes and what binds, with the engine's word at the marked points.

    Parameters
    ----------
    found
        Of :func:`studies.server_map.server_map`.
    path
        PNG to write.
    server
        What is served on what, for the title.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = len(found.load)
    columns = min(2, panels)
    rows = -(-panels // columns)
    at = steps(found.ratio, log=True), steps(found.cv)
    known = found.max_root[np.isfinite(found.max_root)]
    has_border = known.size > 0 and known.min() < 1 + NEUTRAL < known.max()
    pale = {name: faint(to_rgb(colour)) for name, colour in COLOURS.items()}
    shown = set(found.regime.ravel()) | {point.engine for point in found.points}
    with figure(path, 4.4 * columns, 3.35 * rows + 0.7) as drawing:
        grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.ravel()[panels:]:
            axes.set_axis_off()
        for axes, load in zip(grid.ravel(), found.load.tolist(), strict=False):
            axes.set(xscale="log", title=f"load {load:g} of capacity")
            axes.set(xlim=found.ratio[[0, -1]], ylim=(0, found.cv[-1]))
            _regions(axes, at, found, load, pale)
            _limits(axes, at, found)
            if has_border:
                axes.contour(*at, refined(found.max_root), levels=[1 + NEUTRAL], colors=INK,
                             linewidths=1.0, linestyles="dashed")  # fmt: skip
            full = refined(found.theta)
            levels = [x for x in LEVELS if full.min() < x < full.max() and x != load]
            if levels:
                lines = axes.contour(
                    *at, full, levels=levels, colors=INK, linewidths=0.6, alpha=0.55
                )
                axes.clabel(lines, fmt=lambda x: f"{x:g}", fontsize=7, inline_spacing=1)
            for point in found.points:
                if point.load == load:
                    axes.plot(
                        point.ratio, point.cv, "o" if point.agrees else "X", clip_on=False,
                        color=COLOURS.get(point.engine, INK), markeredgecolor="white",
                        markeredgewidth=0.8, markersize=7 if point.agrees else 9, zorder=4,
                    )  # fmt: skip
            axes.grid(False)
        ticks = [x for x in TICKS if found.ratio[0] <= x <= found.ratio[-1]]
        for axes in grid.ravel()[max(panels - columns, 0) : panels]:  # the lowest of each column
            axes.set_xlabel("prompt tokens per decoded token, p / E[D]")
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.tick_params(labelbottom=True)
            axes.minorticks_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("CV of the decode lengths")
        handles: dict[str, Any] = {
            NAMES[name]: Patch(color=pale[name]) for name in COLOURS if name in shown
        }
        if len(set(found.binds.ravel())) > 1:
            handles["another limit binds"] = Line2D([], [], color=INK, lw=1.0, ls=":")
        if has_border:
            handles["a full server settles above"] = Line2D([], [], color=INK, lw=1.0, ls="--")
        if any(found.theta.min() < level < found.theta.max() for level in LEVELS):
            handles["completed from a queue / capacity"] = Line2D([], [], color=INK, lw=0.6)
        if found.points:
            agreed = sum(point.agrees for point in found.points)
            dot: dict[str, Any] = {"color": INK, "lw": 0, "markeredgecolor": "white"}
            if agreed:
                handles["engine agrees"] = Line2D([], [], marker="o", **dot)
            if agreed < len(found.points):
                handles["engine disagrees"] = Line2D([], [], marker="X", **dot)
            note(grid[0, -1], f"engine: {agreed} of {len(found.points)} points agree")
        legend_above(
            drawing, handles,
            "\n".join(
                [*[server] * bool(server), instance_line(found.instance),
                 f"gamma decode lengths of mean {found.mean_decode:g} tokens"]
            ),
        )  # fmt: skip


def _regions(axes: Any, at: Any, found: ServerMap, load: float, pale: dict[str, Any]) -> None:
    """Paint the regimes, each over those that it takes from, with their edges.

    They are where fields cross a level, not the names of cells: edges run smoothly between cells.
    """
    empty, full, swing = (refined(each) for each in (found.highest, found.theta, found.swing))
    both = np.minimum(empty, full)
    axes.set_facecolor(pale["backlogged"])
    layers = [(swing, IN_STEP, "limit_cycle"), (empty, load, "bistable"), (both, load, "healthy")]
    for field, level, name in layers:
        if field.max() > level:
            axes.contourf(*at, field, levels=[level, np.inf], colors=[pale[name]])
    beyond = np.where(empty > load, np.nan, swing)
    for field, level in ((beyond, IN_STEP), (empty, load), (both, load)):
        known = field[np.isfinite(field)]
        if known.size and known.min() < level < known.max():
            axes.contour(*at, field, levels=[level], colors=INK, linewidths=1.6)


def _limits(axes: Any, at: Any, found: ServerMap) -> None:
    """Part the map by the limit that binds, and name the parts at the top."""
    names = list(found.entering)
    limits: NDArray[np.float64] = np.stack([refined(found.entering[name]) for name in names])
    binds = np.argmin(limits, axis=0)
    for number, name in enumerate(names):
        others = np.delete(limits, number, axis=0).min(axis=0)
        ahead = np.log(np.clip(others, 1e-300, 1e300) / np.clip(limits[number], 1e-300, 1e300))
        if ahead.min() < 0 < ahead.max():
            axes.contour(*at, ahead, levels=[0.0], colors=INK, linewidths=1.0, linestyles=":")
        top = np.flatnonzero(binds[-1] == number)
        if top.size > NARROW * binds.shape[1]:
            middle = float(at[0][int(top.mean())])
            axes.text(
                middle, 0.975 * found.cv[-1], f"{LIMITS.get(name, name)} bind"
                + ("s" if LIMITS.get(name) == "KV" else ""),
                ha="center", va="top", fontsize=8, color=INK, alpha=0.75,
            )  # fmt: skip
