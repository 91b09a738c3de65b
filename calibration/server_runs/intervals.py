"""The interval of a coefficient contains chance, what a run repeats slowly, and model error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from calibration.robust_fit import spread
from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.law import LawFit, fit_law
from serving import FluidServeError

BLOCKS = 10
"""Number of parts of a run, each of which is left out once."""

NOISE = 0.05
"""Relative noise of one batch time that counts as chance; what is beyond is the law's error."""


PAUSES = 0.4
"""Relative error of a law for each share of requests left out because they paused: what they held
meanwhile, and what the server computed again, is not known. On simulated servers that preempted up
to a third of the requests, errors of ``d_0`` reached this."""


def with_model_error(
    law: LawFit, rows: BatchRows, others: Sequence[LawFit] = (), left_out: float = 0.0
) -> LawFit:
    """Return the law with intervals that contain more than the chance of independent rows.

    An interval is at least as wide as that of a jackknife which leaves out one tenth of the run at
    a time: rows nearby share what the law does not say. A row averages many batches, so that
    chance leaves little of their noise; errors beyond are those of the law, and widen each interval
    by the same share. The change to each other law, such as that of scrapes half as often, joins
    them as squares add.

    Parameters
    ----------
    law
        Fit of the rows.
    rows
        Rows of the fit, in order of time.
    others
        Laws that differ only by an approximation that the fit makes.
    left_out
        Share of the requests that were left out because they paused.
    """
    half = np.fmax(law.half_width, _jackknife(rows))
    beyond = np.hypot(_misfit(law, rows), PAUSES * left_out) * np.nan_to_num(law.value)
    squares = half**2 + beyond**2
    for other in others:
        squares = squares + np.nan_to_num(other.value - law.value) ** 2
    return replace(law, half_width=np.sqrt(squares))


def laws_without_parts(rows: BatchRows) -> NDArray[np.float64]:
    """Return the law of the run without each of its tenths, shape (BLOCKS, 4).

    Raises
    ------
    FluidServeError
        If the run is too short.
    """
    part = np.arange(len(rows)) * BLOCKS // max(len(rows), 1)
    return np.array([fit_law(rows.where(part != left)).value for left in range(BLOCKS)])


def half_widths_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 95 % half widths of what was found without each part, shape (BLOCKS, ...)."""
    around = values - values.mean(axis=0)
    variance = (BLOCKS - 1) / BLOCKS * (around**2).sum(axis=0)
    return float(student.ppf(0.975, BLOCKS - 1)) * np.sqrt(variance)


def _jackknife(rows: BatchRows) -> NDArray[np.float64]:
    """Return 95 % half widths by leaving out one part of the run at a time; NaN where too short."""
    try:
        return half_widths_of(laws_without_parts(rows))
    except FluidServeError:
        return np.full(4, np.nan)


def _misfit(law: LawFit, rows: BatchRows) -> float:
    """Return the relative error of the law beyond the noise of single batches."""
    predicted = law.predict(rows)
    if not (predicted > 0).all():
        return 0.0
    error = rows.step_time / predicted - 1
    chance = NOISE / np.sqrt(np.maximum(rows.steps, 1.0))
    observed = spread(error, float(np.median(error)))
    return float(np.sqrt(max(observed**2 - float(np.median(chance)) ** 2, 0.0)))
