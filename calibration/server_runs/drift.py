"""A sliding window, in which the law is fitted again, shows drift of batch times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import median_and_error
from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.law import LawFit, fit_law
from serving import FluidServeError

SIGNIFICANT = 3.0
"""Change from begin to end, over the one that wandering explains, beyond which it is a trend."""

MATTERS = 0.02
"""Difference of two biases beyond which the law is worth a new fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window covers consecutive rows of a run.

    Parameters
    ----------
    start, end : [s]
        First and last time of the rows.
    rows
        Number of batch-time rows in the window.
    bias, bias_error
        Median of measured over predicted batch time less one, and the standard error of this
        median. The law of the whole run predicts.
    law : shape (4,) or None
        Law of this window alone, in the order of COEFFICIENTS; None for too few rows.
    """

    start: float
    end: float
    rows: int
    bias: float
    bias_error: float
    law: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """The batch times of a run drift against the law of the whole run.

    Parameters
    ----------
    windows
        In order of time, each overlapping half of the next.
    slope, slope_error : [1/h]
        Trend of measured over predicted batch time, and its standard error.
    drifting
        Whether the bias moves steadily from begin to end, by more than :data:`MATTERS`.
    wander
        Largest less smallest bias of the windows. On a busy machine, batch times wander without a
        trend.
    """

    windows: tuple[Window, ...]
    slope: float
    slope_error: float
    drifting: bool
    wander: float


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
        bias, bias_error = median_and_error(ratio[first:last])
        try:
            own = fit_law(part).value
        except FluidServeError:
            own = None
        windows.append(
            Window(
                start=float(part.time[0]),
                end=float(part.time[-1]),
                rows=len(part),
                bias=bias,
                bias_error=bias_error,
                law=own,
            )
        )
    centre = rows.time - rows.time.mean()
    clipped = np.clip(ratio, *np.quantile(ratio, [0.02, 0.98]))
    slope = float(centre @ clipped / (centre @ centre))
    left = clipped - clipped.mean() - slope * centre
    error = float(np.sqrt(left @ left / max(len(rows) - 2, 1) / (centre @ centre)))
    biases = [window.bias for window in windows]
    return Drift(
        windows=tuple(windows),
        slope=3600 * slope,
        slope_error=3600 * error,
        drifting=_is_steady(ratio, edges),
        wander=max(biases) - min(biases),
    )


def _is_steady(ratio: NDArray[np.float64], edges: NDArray[np.int64]) -> bool:
    """Return whether the bias moves in one direction from part to part of the run.

    The parts do not overlap. A bias that wanders moves by as much per step as one that drifts, but
    in both directions: the mean step is then no more than its standard error explains.
    """
    medians = [np.median(ratio[a:b]) for a, b in pairwise(edges)]
    steps = np.diff(medians)
    moved = float(steps.sum())
    wandering = float(steps.std(ddof=1)) * np.sqrt(steps.size)
    return bool(abs(moved) > MATTERS and abs(moved) > SIGNIFICANT * wandering)
