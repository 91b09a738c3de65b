"""Draw a measured run over time beside what models say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluidserve.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    figure,
    from_zero,
    legend_above,
    time_label,
)

PANELS = {"running": "running requests", "waiting": "waiting requests",
          "in_system": "requests under way",
          "output_throughput": "output tokens per second"}  # fmt: skip
LINES = {"measured": (INK, 2.4), "engine": (VERMILLION, 1.4), "fluid": (BLUE, 1.4),
         "one_node": (GREEN, 1.4)}  # fmt: skip


def measured_vs_predicted(
    columns: Mapping[str, Any], path: str | Path, *, title: str = "", until: float | None = None
) -> None:
    """Draw running, waiting and requests under way over time, as far as they were measured.

    Parameters
    ----------
    columns
        ``time`` [s], and ``measured.running`` and so on by owner and name.
    path
        PNG to write.
    title
        The run.
    until : [s]
        End of the part that the law was matched to; drawn as a line.
    """
    time = np.asarray(columns["time"], float)
    shown = [name for name in PANELS if f"measured.{name}" in columns]
    owners = list(dict.fromkeys(key.partition(".")[0] for key in columns if "." in key))
    with figure(path, 11.0, 2.5 * len(shown) + 0.5) as drawing:
        panels = np.atleast_1d(drawing.subplots(len(shown), 1, sharex=True))
        handles: dict[str, Any] = {}
        for axes, name in zip(panels, shown, strict=True):
            for owner in owners:
                values = columns.get(f"{owner}.{name}")
                if values is not None:
                    colour, width = LINES.get(owner, (BLUE, 1.4))
                    handles[owner] = axes.plot(time, values, color=colour, lw=width)[0]
            if until is not None:
                line = axes.axvline(until, color=GREY, lw=1.0, ls="--")
                handles["calibrated until here"] = line
            axes.set_title(PANELS[name])
            from_zero(axes)
        panels[-1].set_xlabel(time_label("s"))
        legend_above(drawing, handles, title)
