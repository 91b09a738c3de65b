"""Whether a server's batch times move: the law again in a sliding window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.law import LawFit, fit_law
from serving import FluidServeError

SIGNIFICANT = 3.0
"""Standard errors beyond which a window's bias is no chance."""

MATTERS = 0.02
"""Bias of a window that is worth a new fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window of a run.

    Parameters
    ----------
    start, end : [s]
        What it covers.
    rows
        Batch-time rows in it.
    bias, bias_error
        Median of measured over predicted batch time less one, predicted by the law of the whole
        run, and its standard error.
    law : shape (4,) or None
        Fitted again to this window alone, where it has rows enough.
    """

    start: float
    end: float
    rows: int
    bias: float
    bias_error: float
    law: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """How the law of a run moves in it.

    Parameters
    ----------
    windows
        In order of time, each overlapping half of the next.
    slope, slope_error : [1/h]
        Trend of measured over predicted batch time, and its standard error.
    drifting
        Whether the windows' biases move by more than :data:`MATTERS` and more than chance.
    """

    windows: tuple[Window, ...]
    slope: float
    slope_error: float
    drifting: bool


def drift(rows: BatchRows, law: LawFit, count: int) -> Drift | None:
    """Return the law's bias in ``count`` half-overlapping windows; None for too few rows."""
    predicted = law.predict(rows)
    if len(rows) < 4 * count or not np.ptp(rows.time) > 0 or not (predicted > 0).all():
        return None
    ratio = rows.step_time / predicted - 1
    edges = np.linspace(0, len(rows), count + 2).astype(int)
    windows = []
    for first, last in zip(edges[:-2], edges[2:], strict=True):
        part = rows.where(np.arange(first, last))
        middle = float(np.median(ratio[first:last]))
        spread = 1.4826 * float(np.median(np.abs(ratio[first:last] - middle)))
        try:
            own = fit_law(part).value
        except FluidServeError:
            own = None
        windows.append(
            Window(float(part.time[0]), float(part.time[-1]), len(part), middle,
                   1.2533 * spread / np.sqrt(len(part)), own)
        )  # fmt: skip
    centre = rows.time - rows.time.mean()
    clipped = np.clip(ratio, *np.quantile(ratio, [0.02, 0.98]))
    slope = float(centre @ clipped / (centre @ centre))
    left = clipped - clipped.mean() - slope * centre
    error = float(np.sqrt(left @ left / max(len(rows) - 2, 1) / (centre @ centre)))
    low, high = min(windows, key=lambda w: w.bias), max(windows, key=lambda w: w.bias)
    moved = high.bias - low.bias
    chance = SIGNIFICANT * np.hypot(low.bias_error, high.bias_error)
    return Drift(
        tuple(windows), 3600 * slope, 3600 * error, bool(moved > MATTERS and moved > chance)
    )
