"""Draw which parameters change a latency most: elasticities as bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fluidserve.plots.style import BLUE, VERMILLION, figure

SHOWN = {
    "mean_ttft": "TTFT mean",
    "p99_ttft": "TTFT p99",
    "mean_e2el": "E2EL mean",
    "p99_e2el": "E2EL p99",
}

ROOM_FOR_NUMBER = 0.32
"""Room beside the longest bar for its number, as a share of the width of the bars."""


def elasticities(
    by_statistic: Mapping[str, Mapping[str, float]], path: str | Path, *, title: str = ""
) -> None:
    """Draw elasticities of some statistics of latencies.

    Parameters
    ----------
    by_statistic
        ``d log(statistic) / d log(parameter)`` by statistic, then by parameter.
    path
        PNG to write.
    title
        What is shown: the node, the load, the unit.
    """
    shown = [name for name in SHOWN if by_statistic.get(name)]
    parameters = list(next(by_statistic[name] for name in shown))
    parameters.sort(key=lambda key: max(abs(by_statistic[name].get(key, 0.0)) for name in shown))
    place = np.arange(len(parameters))
    with figure(path, 10.0, 1.5 + 0.32 * len(parameters)) as drawing:
        panels = drawing.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, shown, strict=True):
            values = np.array([by_statistic[name].get(key, 0.0) for key in parameters])
            colours = [VERMILLION if value > 0 else BLUE for value in values]
            axes.barh(place, values, color=colours, height=0.62)
            axes.axvline(0, color="#6b6b6b", lw=0.8)
            axes.set_title(SHOWN[name])
            axes.set_xlabel("change [%] per +1 %")
            reach = max(1.0, float(np.abs(values).max()))
            for y, value in zip(place, values, strict=True):
                side = "left" if value >= 0 else "right"
                told = round(float(value), 2) + 0.0  # no "-0.00"
                axes.text(
                    value + 0.03 * reach * (1 if value >= 0 else -1), y, f"{told:.2f}",
                    va="center", ha=side, fontsize=8,
                )  # fmt: skip
            low, high = min(0.0, values.min()), max(0.0, values.max())
            room = ROOM_FOR_NUMBER * max(high - low, 0.5 * reach)
            axes.set_xlim(low - room * bool((values < 0).any()), high + room)
        panels[0].set_yticks(place, parameters)
        if title:
            drawing.suptitle(title, fontsize=9)
