"""Robust least squares fit laws to times by relative errors; robust spreads judge errors.

The fit describes measured times by ``base + columns @ coefficients``. Times range over orders of
magnitude and their noise grows with them, so the fit minimises relative errors. Each error is
taken over the fitted time. An error over the measured time would give more weight to the times
that noise made short: noise of the relative size s would lower every coefficient by the share
2 s^2 (.5 % at s = 5 %), however many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

HUBER = 1.345
"""Residual [standard deviations] beyond which the loss is linear (Huber); the fit keeps 95 % of the
efficiency that least squares have under normal noise."""

ROUNDS = 100
"""Largest number of reweighted solves of one fit; most fits need 5 to 30 of them."""

CONVERGED = 1e-7
"""Largest relative change of the coefficients that ends a fit."""

LEAST_SHARE = 0.05
"""Smallest share of the measured time that an error is taken over, where the fit gives less."""

NORMAL_SPREAD = 1.4826
"""Standard deviation of normal values over their median absolute deviation."""

NO_SPREAD = 1e-9
"""Smallest standard deviation of relative errors: exact times leave rounding errors only."""

MEDIAN_ERROR = 1.2533
"""Standard error of the median of normal values over the standard error of their mean."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RelativeFit:
    """A fit gives coefficients that describe measured times, and the errors left over.

    Parameters
    ----------
    coefficients : shape (K,)
        One number per column.
    fitted : shape (R,)
        Time that the coefficients give each row.
    scale : shape (R,)
        Time that the error of each row is taken over.
    residual : shape (R,)
        Relative error of each row, times the square root of the weight of the row.
    robust_weight : shape (R,)
        Factor that Huber's loss puts on each row: 1 near the fit, less far from it.
    """

    coefficients: Array
    fitted: Array
    scale: Array
    residual: Array
    robust_weight: Array


def fit_relative(
    columns: Array,
    measured: Array,
    *,
    base: Array | float = 0.0,
    row_weights: Array | None = None,
    relative_to: Literal["fit", "measured"] = "fit",
    robust: bool = True,
    centred: bool = False,
    non_negative: bool = True,
) -> RelativeFit:
    """Fit ``base + columns @ coefficients`` to ``measured`` by least relative errors.

    Parameters
    ----------
    columns : shape (R, K)
        Contents of each row that take time.
    measured : shape (R,)
        Positive times.
    base : shape (R,)
        Part of the time that is known already.
    row_weights : shape (R,)
        Positive weight of each row, such as the number of batches that the row averages.
    relative_to
        ``fit``: errors over the fitted times, which the fit finds by repeated solves (see the head
        of this module). ``measured``: errors over the measured times.
    robust
        Whether an error counts linearly beyond :data:`HUBER` standard deviations, and not
        quadratically. Errors over the measured times without it take one solve only, for searches
        that compare many sets of columns.
    centred
        Whether the standard deviation of the errors is taken around their median, and not around
        zero. A running server now and then stalls, so most of its errors lie on one side.
    non_negative
        Whether the coefficients must be >= 0.
    """
    root = np.ones(measured.size) if row_weights is None else np.sqrt(row_weights)
    length = np.sqrt(((columns / measured[:, None]) ** 2).mean(axis=0))
    length[length == 0] = 1.0
    solve = _non_negative_least_squares if non_negative else _least_squares
    unit_columns, left = columns / length, measured - base
    scale, weight, found = measured, np.ones(measured.size), np.zeros(length.size)
    repeats = robust or relative_to == "fit"
    for _ in range(ROUNDS if repeats else 1):
        factor = root * np.sqrt(weight) / scale
        before, found = found, solve(unit_columns * factor[:, None], left * factor)
        fitted = base + unit_columns @ found
        if relative_to == "fit":
            scale = np.maximum(fitted, LEAST_SHARE * measured)
        residual = root * (measured - fitted) / scale
        if robust:
            bend = HUBER * spread(residual, float(np.median(residual)) if centred else 0.0)
            weight = np.minimum(1.0, bend / np.maximum(np.abs(residual), 1e-300))
        if np.allclose(found, before, rtol=CONVERGED, atol=1e-12):
            break
    return RelativeFit(found / length, fitted, scale, residual, weight)


def _non_negative_least_squares(A: Array, b: Array) -> Array:
    """Return the c >= 0 that minimises ``|A c - b|``, from the K x K triangle of A.

    Columns that nearly depend on one another leave no triangle; the rows themselves are solved
    then.
    """
    try:
        triangle = np.linalg.cholesky(A.T @ A)
    except np.linalg.LinAlgError:
        return nnls(A, b)[0]
    if triangle.diagonal().min() < 1e-6 * triangle.diagonal().max():
        return nnls(A, b)[0]
    return nnls(triangle.T, solve_triangular(triangle, A.T @ b, lower=True))[0]


def _least_squares(A: Array, b: Array) -> Array:
    """Return the c of any sign that minimises ``|A c - b|``."""
    return np.asarray(np.linalg.lstsq(A, b, rcond=None)[0], float)


def spread(values: Array, centre: float = 0.0) -> float:
    """Return the robust standard deviation of ``values`` around ``centre``; at least NO_SPREAD.

    A few wild values do not move the median absolute deviation, which the function scales to the
    standard deviation of normal values.
    """
    return max(NORMAL_SPREAD * float(np.median(np.abs(values - centre))), NO_SPREAD)


def median_and_error(values: Array) -> tuple[float, float]:
    """Return the median of ``values`` and the standard error that normal values would give it."""
    middle = float(np.median(values))
    return middle, MEDIAN_ERROR * spread(values, middle) / float(np.sqrt(values.size))
