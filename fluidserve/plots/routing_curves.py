"""Draw the latencies of routing policies over the load."""

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
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WINE,
    figure,
    legend_above,
    plain_ticks,
    unit_named,
)

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, WINE, GREY, INK)
DASHES = ("-", "--", ":")
PANELS = {"mean_ttft": "mean TTFT", "p99_ttft": "p99 TTFT", "mean_e2el": "mean E2EL"}

WIDE = 5.0
"""Ratio of the largest to the least mean from which an axis is logarithmic."""


def routing_curves(
    columns: Mapping[str, Sequence[Any]], path: str | Path, *, title: str, time_unit: str
) -> None:
    """Draw mean TTFT, p99 TTFT and mean E2EL of every policy, with the intervals of the means.

    Parameters
    ----------
    columns
        Of ``routing.csv``: a row per load and policy.
    path
        PNG to write.
    title
        Fleet and requests.
    time_unit
        Of the latencies.
    """
    from matplotlib.patches import Patch

    names = [str(each) for each in columns["policy"]]
    policies = list(dict.fromkeys(names))
    load = np.array(columns["load"], float)
    handles: dict[str, Any] = {}
    with figure(path, 9.6, 4.2) as drawing:
        panels = drawing.subplots(1, len(PANELS), squeeze=False)[0]
        for axes, (name, words) in zip(panels, PANELS.items(), strict=True):
            mean, half = (_numbers(columns[each]) for each in (name, f"{name}_half"))
            for k, policy in enumerate(policies):
                mine = np.array([each == policy for each in names])
                mine = mine.nonzero()[0][np.argsort(load[mine])]
                colour = COLOURS[k % len(COLOURS)]
                dash = DASHES[k // len(COLOURS) % len(DASHES)]
                x, y, wide = load[mine], mean[mine], np.nan_to_num(half[mine])
                low = np.maximum(y - wide, y / 10)  # a mean of times is above 0
                axes.fill_between(x, low, y + wide, color=colour, alpha=0.12, lw=0)
                handles[policy] = axes.plot(x, y, dash, marker="o", ms=3, color=colour)[0]
            axes.set(xlabel="load [share of capacity]", ylabel=f"{words} [{unit_named(time_unit)}]")
            if 0 < WIDE * np.nanmin(mean) < np.nanmax(mean):
                axes.set_yscale("log")
                plain_ticks(axes.yaxis)
        handles["95 % interval of the mean"] = Patch(color=GREY, alpha=0.3, lw=0)
        legend_above(drawing, handles, title)


def _numbers(values: Sequence[Any]) -> Any:
    return np.array([np.nan if value == "" else value for value in values], float)
