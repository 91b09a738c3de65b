"""Draw latencies over a knob: points of the engine with intervals, lines of the fluid model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluidserve.plots.style import BLUE, GREY, INK, VERMILLION, figure, plain_ticks

PANELS = {"ttft": "TTFT, time to first token", "tpot": "TPOT, time per output token",
          "e2el": "E2EL, end-to-end latency"}  # fmt: skip
COLOURS = {"mean": INK, "p50": BLUE, "p99": VERMILLION}
MARKS = {"mean": "o", "p50": "s", "p99": "^"}
EXPECTED = "90 % of answers like this one"
"""Words for where the engine's mean is expected about a line of the fluid model."""
HIGHEST_BAND = 3.0
"""Height of an interval over the highest value of its line, from which it is cut off."""


def latency_curves(
    columns: Mapping[str, Any],
    knob: str,
    path: str | Path,
    *,
    title: str,
    knob_label: str,
    time_unit: str,
    limits: Sequence[tuple[str, str, float]] = (),
    answer: tuple[float, str] | None = None,
    is_log: bool = False,
    is_count: bool = False,
    footnote: str = "",
) -> None:
    """Draw TTFT, TPOT and E2EL over a knob, a panel each.

    Parameters
    ----------
    columns
        As :meth:`studies.tuning.LatencyCurve.columns` names them.
    knob
        Name of the column of values.
    path
        PNG to write.
    title
        Node and load.
    knob_label
        Label of the horizontal axis, with its unit.
    time_unit
        Unit of the latencies; ``none`` leaves it open.
    limits
        Statistic, latency and limit of each objective, in the unit of the columns.
    answer
        The value that was found, and words for it.
    is_log
        Whether the knob is spaced by ratios.
    is_count
        Whether the knob has a few whole values, each of which is marked.
    footnote
        What the points rest on.
    """
    suffix = "" if time_unit == "none" else "_ms"
    unit = "" if time_unit == "none" else " [ms]"
    source, x = np.asarray(columns["source"]), np.asarray(columns[knob], float)
    with figure(path, 12.0, 4.4) as drawing:
        panels = drawing.subplots(1, len(PANELS))
        handles: dict[str, Any] = {}
        for axes, (latency, words) in zip(panels, PANELS.items(), strict=True):
            for statistic, colour in COLOURS.items():
                name = f"{statistic}_{latency}{suffix}"
                _line(axes, x, columns, source == "fluid", name, colour, handles)
                _points(axes, x, columns, source == "engine", name, statistic, handles)
            for statistic, of, limit in limits:
                if of == latency:
                    colour = COLOURS.get("p50" if statistic == "median" else statistic, GREY)
                    handles.setdefault(
                        "limit of an objective",
                        axes.axhline(limit, color=colour, lw=0.9, ls=(0, (1, 2)), zorder=2),
                    )
            if answer is not None:
                line = axes.axvline(answer[0], color=GREY, lw=0.9, ls="--", zorder=1)
                handles.setdefault(answer[1], line)
            if is_log:
                axes.set_xscale("log")
                plain_ticks(axes.xaxis)
            if is_count:
                values = np.unique(x)
                axes.set_xticks(values, [f"{value:g}" for value in values])
                axes.set_xticks([], minor=True)
                axes.set_xlim(values[0] / 1.1, 1.1 * values[-1])
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
            said = [np.asarray(columns[f"{of}_{latency}{suffix}"], float) for of in COLOURS]
            _start_below(axes, np.concatenate([*said, [x for _, of, x in limits if of == latency]]))
            axes.set_title(words)
            axes.set_xlabel(knob_label)
            axes.set_ylabel(f"{latency.upper()}{unit}" if unit else f"{latency.upper()} [time]")
        drawing.legend(
            list(handles.values()), list(handles), loc="outside lower center",
            ncols=-(-len(handles) // 2) if len(handles) > 7 else max(len(handles), 1),
            title=footnote or None, title_fontsize=8,
        )  # fmt: skip
        drawing.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")


def _start_below(axes: Any, values: Any) -> None:
    """Let an interval that reaches 0 leave the panel instead of stretching a logarithmic axis."""
    shown = values[np.isfinite(values) & (values > 0)]
    if shown.size and axes.get_ylim()[0] < 0.5 * shown.min():
        axes.set_ylim(bottom=0.5 * shown.min())


def _line(
    axes: Any, x: Any, columns: Mapping[str, Any], rows: Any, name: str, colour: str,
    handles: dict[str, Any],
) -> None:  # fmt: skip
    values = np.asarray(columns[name], float)[rows]
    if np.isfinite(values).any():
        (line,) = axes.plot(x[rows], values, color=colour, lw=1.4, zorder=3)
        handles.setdefault(f"fluid, {name.split('_')[0]}", line)
    low, high = (np.asarray(columns[name + ending], float)[rows] for ending in ("_low", "_high"))
    if np.isfinite(low).any():
        high = np.minimum(high, HIGHEST_BAND * np.nanmax(values))
        filled = axes.fill_between(x[rows], low, high, color=colour, alpha=0.13, lw=0, zorder=1.5)
        handles.setdefault(EXPECTED, filled)


def _points(
    axes: Any, x: Any, columns: Mapping[str, Any], rows: Any, name: str, statistic: str,
    handles: dict[str, Any],
) -> None:  # fmt: skip
    values, low, high = (
        np.asarray(columns[name + ending], float)[rows] for ending in ("", "_low", "_high")
    )
    if not np.isfinite(values).any():
        return
    low = np.maximum(
        low, 1e-3 * values
    )  # an interval that reaches 0 has no lower end on a log axis
    points = axes.errorbar(
        x[rows], values, yerr=[values - low, high - values], color=COLOURS[statistic],
        fmt=MARKS[statistic], ms=4, lw=1.0, capsize=2, zorder=4,
    )  # fmt: skip
    handles.setdefault(f"engine, {statistic}", points)
