"""The mean batch times of a server give a batch-time law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import RelativeFit, fit_relative
from calibration.server_runs.batch_rows import BatchRows
from serving import FluidServeError


class Coefficients(NamedTuple):
    """Four coefficients make the law ``tau = d_0 + d_prefill P + d_decode n + d_kv K``.

    Parameters
    ----------
    d_0 : [s]
        Time of an empty batch.
    d_prefill : [s/token]
        Time per prompt token that the batch computes.
    d_decode : [s/request]
        Time per decoding request of the batch.
    d_kv : [s/token]
        Time per KV token that the decoding requests hold.
    """

    d_0: float
    d_prefill: float
    d_decode: float
    d_kv: float


COEFFICIENTS = Coefficients._fields
"""Names of the coefficients, in the order of the columns of a fit."""

IDENTIFIED = 0.1
"""Largest half width of a 95 % interval, as a share of the coefficient, that identifies it."""


@dataclass(frozen=True, slots=True, eq=False)
class LawFit:
    """A fit gives a batch-time law with intervals.

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

    def told(self) -> Coefficients:
        """Return the coefficients by name; NaN where the rows say nothing."""
        return Coefficients(*self.value.tolist())

    def known(self) -> Coefficients:
        """Return the coefficients by name; 0 where the rows say nothing."""
        return Coefficients(*np.nan_to_num(self.value).tolist())

    def identified(self, name: str) -> bool:
        """Return whether the rows tell a coefficient to within :data:`IDENTIFIED` of its value."""
        at = COEFFICIENTS.index(name)
        value = self.value[at]
        return bool(value > 0 and self.half_width[at] <= IDENTIFIED * value)


def design(rows: BatchRows) -> NDArray[np.float64]:
    """Return the columns of the law, shape (N, 4)."""
    kv = np.zeros(len(rows)) if rows.kv_tokens is None else rows.kv_tokens
    return np.stack([np.ones(len(rows)), rows.prefill_tokens, rows.decode_tokens, kv], axis=1)


def fit_law(rows: BatchRows) -> LawFit:
    """Return the law that robust non-negative least squares give (:func:`fit_relative`).

    Each row weighs as much as the number of batches that it averages.

    Raises
    ------
    FluidServeError
        If there are fewer rows than three per coefficient.
    """
    if not len(rows):
        raise FluidServeError("no batch times; 3 per coefficient are needed: give a longer run")
    x = design(rows)
    # A column that never varies is part of d_0; a column of zeros says nothing.
    told = np.array([True, *(np.ptp(x[:, 1:], axis=0) > 1e-9 * (1 + np.abs(x[:, 1:]).max(0)))])
    if len(rows) < 3 * told.sum():
        raise FluidServeError(
            f"{len(rows)} batch times for {told.sum()} coefficients; {3 * told.sum()} are needed: "
            "give a longer run"
        )
    columns, batches = x[:, told], rows.steps / rows.steps.mean()
    fit = fit_relative(columns, rows.step_time, row_weights=batches, centred=True)
    scaled = columns * (np.sqrt(batches) / fit.scale)[:, None]
    value, half = np.full(4, np.nan), np.full(4, np.nan)
    value[told], half[told] = fit.coefficients, _half_widths(scaled, fit, rows)
    return LawFit(value, half, float(np.linalg.cond(scaled / np.linalg.norm(scaled, axis=0))))


def _half_widths(
    scaled: NDArray[np.float64], fit: RelativeFit, rows: BatchRows
) -> NDArray[np.float64]:
    """Return 95 % half widths; infinite for a coefficient that is held at zero.

    The variance is the sandwich of Huber's estimator. A clipped residual has no slope, so it
    counts in the filling of the sandwich (the scores) and not in the bread (the curvature).
    Residuals are inflated by their leverage (HC3).
    """
    free = fit.coefficients > 0
    half = np.full(free.size, np.inf)
    x = scaled[:, free]
    inner = x[fit.robust_weight >= 1.0]
    bread = np.linalg.pinv(inner.T @ inner)
    leverage = np.einsum("ij,jk,ik->i", x, bread, x)
    score = fit.robust_weight * fit.residual / np.maximum(1 - leverage, 0.1)
    filled = x * score[:, None]
    filling = filled.T @ filled if rows.disjoint else _overlapping(filled, rows)
    half[free] = 1.96 * np.sqrt(np.maximum(np.diag(bread @ filling @ bread), 0.0))
    return half


def _overlapping(filled: NDArray[np.float64], rows: BatchRows) -> NDArray[np.float64]:
    """Return the sum of ``filled_i filled_j r_ij`` over all pairs of rows, shape (K, K).

    Two rows share the noise of the batches in both. With equal batches the correlation of two rows
    is the time that both cover, over the geometric mean of the times that each covers. The sum over
    pairs is then the integral over time of the square of what covers each moment.
    """
    span = rows.steps * rows.step_time
    begin, end = rows.time - span / 2, rows.time + span / 2
    events = np.unique(np.concatenate([begin, end]))
    share = filled / np.sqrt(span)[:, None]
    covering = np.zeros((events.size, filled.shape[1]))
    np.add.at(covering, np.searchsorted(events, begin), share)
    np.subtract.at(covering, np.searchsorted(events, end), share)
    covering = np.cumsum(covering, axis=0)[:-1]
    return covering.T @ (covering * np.diff(events)[:, None])
