"""The batch-time law that mean batch times follow: non-negative, robust, on relative error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import RelativeFit, fit_relative
from calibration.server_runs.batch_rows import BatchRows
from serving import FluidServeError

COEFFICIENTS = ("d_0", "d_prefill", "d_decode", "d_kv")
IDENTIFIED = 0.1
"""A coefficient is identified whose 95 % interval reaches no further than this share of it."""


@dataclass(frozen=True, slots=True, eq=False)
class LawFit:
    """Coefficients of ``tau = d_0 + d_prefill P + d_decode n + d_kv K``.

    Parameters
    ----------
    value, half_width : shape (4,) [s], [s/token], [s/request], [s/token]
        In the order of :data:`COEFFICIENTS`, with the half width of the 95 % interval; NaN where
        the rows say nothing, which counts as 0 in a prediction.
    condition
        Condition number of the design with columns of unit length; beyond some 30, coefficients
        are exchanged for one another, while predictions within the range of the rows hold.
    """

    value: NDArray[np.float64]
    half_width: NDArray[np.float64]
    condition: float

    def predict(self, rows: BatchRows) -> NDArray[np.float64]:
        """Return the batch times of rows [s], shape (N,)."""
        return design(rows) @ np.nan_to_num(self.value)

    def identified(self, at: int) -> bool:
        """Whether a coefficient is known to within :data:`IDENTIFIED` of itself."""
        value = self.value[at]
        return bool(value > 0 and self.half_width[at] <= IDENTIFIED * value)


def design(rows: BatchRows) -> NDArray[np.float64]:
    """Return the columns of the law, shape (N, 4)."""
    kv = np.zeros(len(rows)) if rows.kv_tokens is None else rows.kv_tokens
    return np.stack([np.ones(len(rows)), rows.prefill_tokens, rows.decode_tokens, kv], axis=1)


def fit_law(rows: BatchRows) -> LawFit:
    """Return the law of rows by iterated non-negative least squares.

    Each row counts with the number of its batches and the inverse of its predicted (not its
    measured: that would favour what noise made short) batch time; beyond 1.345 robust standard
    deviations a residual counts linearly (Huber).

    Raises
    ------
    FluidServeError
        If there are fewer rows than three per coefficient.
    """
    x, y = design(rows), rows.step_time
    # What never varies is part of d_0; a column of zeros says nothing.
    told = np.array([True, *(np.ptp(x[:, 1:], axis=0) > 1e-9 * (1 + np.abs(x[:, 1:]).max(0)))])
    if len(rows) < 3 * told.sum():
        raise FluidServeError(
            f"{len(rows)} batch times for {told.sum()} coefficients; {3 * told.sum()} are needed: "
            "give a longer run"
        )
    columns, batches = x[:, told], rows.steps / rows.steps.mean()
    fit = fit_relative(columns, y, row_weights=batches, centred=True)
    scaled = columns * (np.sqrt(batches) / fit.scale)[:, None]
    value, half = np.full(4, np.nan), np.full(4, np.nan)
    value[told], half[told] = fit.coefficients, _half_widths(scaled, fit)
    return LawFit(value, half, float(np.linalg.cond(scaled / np.linalg.norm(scaled, axis=0))))


def _half_widths(scaled: NDArray[np.float64], fit: RelativeFit) -> NDArray[np.float64]:
    """Return 95 % half widths; infinite for a coefficient held at zero.

    The sandwich of Huber's estimator: a clipped residual has no slope, so it counts in the meat
    and not in the bread. Residuals are inflated by their leverage (HC3).
    """
    free = fit.coefficients > 0
    half = np.full(free.size, np.inf)
    x = scaled[:, free]
    inner = x[fit.robust_weight >= 1.0]
    bread = np.linalg.pinv(inner.T @ inner)
    leverage = np.einsum("ij,jk,ik->i", x, bread, x)
    score = fit.robust_weight * fit.residual / np.maximum(1 - leverage, 0.1)
    meat = (x * score[:, None] ** 2).T @ x
    half[free] = 1.96 * np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0))
    return half
