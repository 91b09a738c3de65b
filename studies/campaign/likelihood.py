"""The size of errors and their bias that make the errors of a campaign most likely.

An error less its bias is taken to be spread by Student's law, whose scale is the size that the
method's own errors have there and, in quadrature, the noise of the engine. So a case that the
engine knows well teaches much, and one that it knows badly teaches little and widens nothing.
Logarithm of the size and bias in units of the size are linear in the terms. A quantile regression
of the logarithm of the deviations, which came before, learns from the tenth of the cases that are
farthest off: by cross-validation its intervals are wider by 7 %.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ode.error_model.model import FREEDOM, LEAST_SIZE, WIDEST

PENALTY = 0.01
"""Weight of the sum of absolute coefficients, of terms in units of their scatter, against the mean
negative log-likelihood: it keeps idle terms at 0."""

LEAST_NOISE = math.exp(LEAST_SIZE)
"""Noise that every case has: no engine is known better."""

Coefficients = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of the logarithm of the size, and of the bias in units of the size; shape (T,) each."""


def size_and_bias(
    terms: NDArray[np.float64], log_size: NDArray[np.float64], bias: NDArray[np.float64]
) -> Coefficients:
    """Return the size of the errors of cases, and their bias, shape (N,) each."""
    size = np.exp(np.clip(terms @ log_size, LEAST_SIZE, WIDEST))
    return size, size * (terms @ bias)


def most_likely(
    terms: NDArray[np.float64],
    error: NDArray[np.float64],
    noise: NDArray[np.float64],
    growing: NDArray[np.bool_],
    penalty: float = PENALTY,
) -> Coefficients:
    """Return the coefficients that make errors most likely.

    Parameters
    ----------
    terms : shape (N, T)
        Of each case; the first is 1 and bears no penalty.
    error : shape (N,)
        Natural logarithm of predicted over engine.
    noise : shape (N,)
        Standard error of the engine's mean, relative.
    growing : shape (T,)
        Terms with which the size must not shrink.
    penalty
        See :data:`PENALTY`.
    """
    from scipy.optimize import minimize

    count = terms.shape[1]
    scatter = terms.std(axis=0)
    scatter[0] = 1.0
    scatter[scatter < 1e-9] = 1.0
    z = terms / scatter
    variance = noise**2 + LEAST_NOISE**2
    cost = np.full(2 * count, penalty)
    cost[[0, count]] = 0.0

    def loss(parts: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        signed = parts[: 2 * count] - parts[2 * count :]
        value, slope = _loss(z, error, variance, signed)
        spent = np.concatenate([cost, cost])
        return value + float(spent @ parts), np.concatenate([slope, -slope]) + spent

    # a coefficient is the difference of two that are not negative: 0 is a corner, and exact
    start = np.zeros(4 * count)
    usual = math.log(np.median(np.abs(error)) + LEAST_NOISE)
    start[0], start[2 * count] = max(usual, 0.0), max(-usual, 0.0)
    falls = np.concatenate([growing, np.zeros(count, bool)])
    bounds = [(0.0, None)] * (2 * count) + [(0.0, 0.0 if fixed else None) for fixed in falls]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B",
                     options={"maxiter": 2000}).x  # fmt: skip
    signed = found[: 2 * count] - found[2 * count :]
    return signed[:count] / scatter, signed[count:] / scatter


def _loss(
    z: NDArray[np.float64],
    error: NDArray[np.float64],
    noise_variance: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Return the mean negative log-likelihood but for a constant, and its slope."""
    n, count = z.shape
    size = np.exp(np.clip(z @ coefficients[:count], LEAST_SIZE, WIDEST))
    middle = z @ coefficients[count:]
    rest = error - size * middle
    variance = size**2 + noise_variance
    ratio = rest**2 / variance
    half = (FREEDOM + 1) / 2
    value = 0.5 * np.log(variance) + half * np.log1p(ratio / FREEDOM)
    of_ratio = half / (FREEDOM + ratio)
    of_variance = 0.5 / variance - of_ratio * ratio / variance
    of_rest = 2 * of_ratio * rest / variance
    of_log_size = 2 * of_variance * size**2 - of_rest * size * middle
    slope = np.concatenate([z.T @ of_log_size, z.T @ (-of_rest * size)]) / n
    return float(value.mean()), slope
