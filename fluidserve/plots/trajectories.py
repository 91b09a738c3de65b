"""Draw trajectories of fluid and discrete with the band of the runs, and the residuals below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluidserve.methods import method_name
from fluidserve.plots.style import (
    BAND_LABEL,
    SWAPS_NOBODY,
    Curve,
    band,
    expected_band,
    figure,
    from_zero,
    legend_above,
    say,
    time_label,
)
from fluidserve.text import percent
from serving import NRMSE_OUTPUTS

NAMES = {
    "waiting": "WAITING",
    "running": "RUNNING",
    "swapped": "SWAPPED",
    "in_system": "in system",
    "completed": "completed (cumulative)",
}
ROOM = 64
"""Letters that fit above a panel of residuals."""


def fluid_vs_discrete(
    discrete: Curve,
    fluid: Sequence[Curve],
    path: str | Path,
    *,
    nrmse: Mapping[str, Mapping[str, float]],
    noise_floor: Mapping[str, float],
    time_unit: str = "none",
    title: str = "",
    swaps: bool = True,
) -> None:
    """Draw every scored output, fluid over the mean of the runs, and the residuals.

    Parameters
    ----------
    discrete
        Mean of the replications with band and standard deviation of a single run.
    fluid
        Solutions on the same grid.
    path
        PNG to write.
    nrmse
        Score by method and output.
    noise_floor
        Standard error of the replication mean by output, in the units of the score.
    time_unit
        Unit of the time axis.
    title
        What is shown: the node, the load, the unit.
    swaps
        Whether the engine can swap requests out.
    """
    t = discrete.mean.time
    scale = {name: _scale(discrete, name) for name in NRMSE_OUTPUTS}
    with figure(path, 11.0, 2.05 * len(NRMSE_OUTPUTS) + 0.6) as drawing:
        grid = drawing.subplots(
            len(NRMSE_OUTPUTS), 2, sharex=True, gridspec_kw={"width_ratios": [1.5, 1]}
        )
        handles: dict[str, Any] = {}
        for (left, right), name in zip(grid, NRMSE_OUTPUTS, strict=True):
            mean = discrete.mean(name, t)
            filled = band(left, discrete, name, t)
            if filled is not None:
                handles[BAND_LABEL] = filled
            if discrete.sd is not None and discrete.runs > 1:
                error = 2 * discrete.sd(name, t) / np.sqrt(discrete.runs) / scale[name] * 100
                handles["\u00b1 2 standard errors of the mean"] = right.fill_between(
                    t, -error, error, color="#d0d0d0", lw=0
                )
            handles[discrete.label] = left.plot(t, mean, **discrete.line)[0]
            knowing = [curve for curve in fluid if name in curve.mean.outputs]
            for curve in knowing:
                handles[curve.label] = left.plot(t, curve.mean(name, t), **curve.line)[0]
                expected_band(left, curve, name, t, handles)
                left_over = (curve.mean(name, t) - mean) / scale[name] * 100
                right.plot(t, left_over, **{**curve.line, "linewidth": 1.1})
            left.set_title(NAMES.get(name, name))
            left.set_ylabel("[requests]")
            from_zero(left)
            if name == "swapped" and not swaps:
                say(left, SWAPS_NOBODY)
            errors = {curve.name: nrmse[curve.name][name] for curve in knowing}
            scored = scores(errors, noise_floor[name])
            right.set_title(scored, fontweight="normal", fontsize=8.5)
            unit = "% of final" if name == "completed" else "% of mean in system"
            right.set_ylabel(f"fluid - discrete\n[{unit}]")
        for axes in grid[-1]:
            axes.set_xlabel(time_label(time_unit))
        grid[0, 0].set_xlim(float(t[0]), float(t[-1]))
        legend_above(drawing, handles, title)


def _scale(discrete: Curve, name: str) -> float:
    """Return what the score divides by: time-mean of in_system, or all completions."""
    if name == "completed":
        return max(float(discrete.mean("completed", discrete.mean.time)[-1]), 1e-300)
    return max(float(discrete.mean("in_system", discrete.mean.time).mean()), 1e-300)


def scores(nrmse: Mapping[str, float], floor: float | None) -> str:
    """Return the scores with the names of their methods, or without where that is too long."""
    noise = f"; noise {percent(floor)}"
    named = (f"{method_name(name)} {percent(error)}" for name, error in nrmse.items())
    text = f"NRMSE: {', '.join(named)}{noise}"
    return text if len(text) <= ROOM else f"NRMSE: {', '.join(map(percent, nrmse.values()))}{noise}"
