"""The robust fitter: what its choices change, and what they do not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from calibration.robust_fit import HUBER, fit_relative, median_and_error, spread

TRUTH = np.array([0.012, 4e-5, 1.5e-7])


def design(size, seed):
    rng = np.random.default_rng(seed)
    requests = rng.integers(1, 129, size).astype(float)
    return np.column_stack([np.ones(size), requests, requests * rng.uniform(64, 8192, size)])


@pytest.mark.parametrize(
    ("relative_to", "robust", "centred", "non_negative"),
    list(itertools.product(["fit", "measured"], [True, False], [True, False], [True, False])),
)
def test_exact_times_give_the_law_whatever_is_chosen(relative_to, robust, centred, non_negative):
    columns, base = design(200, 0), np.full(200, 0.003)
    fit = fit_relative(
        columns, base + columns @ TRUTH, base=base, row_weights=np.arange(1.0, 201.0),
        relative_to=relative_to, robust=robust, centred=centred, non_negative=non_negative,
    )  # fmt: skip
    assert fit.coefficients == pytest.approx(TRUTH, rel=1e-6)
    assert fit.fitted == pytest.approx(base + columns @ TRUTH, rel=1e-9)


def test_errors_over_the_measured_time_lower_the_law_and_errors_over_the_fit_do_not():
    """Under noise s, squares of errors over the measured time give 1 - 2 s^2 of the law."""
    columns, noise = design(200_000, 1), 0.05
    rng = np.random.default_rng(2)
    measured = columns @ TRUTH * (1 + noise * rng.standard_normal(columns.shape[0]))

    def ratio(**options):
        return float(np.mean(fit_relative(columns, measured, **options).fitted / (columns @ TRUTH)))

    own_error = 4 * noise / np.sqrt(columns.shape[0])
    assert abs(ratio() - 1) < own_error
    biased = ratio(relative_to="measured", robust=False)
    assert biased - 1 == pytest.approx(-2 * noise**2, rel=0.2)


def test_a_row_of_weight_three_counts_as_three_rows():
    columns = design(60, 3)
    measured = columns @ TRUTH * (1 + 0.05 * np.random.default_rng(4).standard_normal(60))
    counts = np.where(np.arange(60) < 20, 3, 1)
    weighted = fit_relative(columns, measured, row_weights=counts.astype(float), robust=False)
    repeated = fit_relative(
        np.repeat(columns, counts, axis=0), np.repeat(measured, counts), robust=False
    )
    assert weighted.coefficients == pytest.approx(repeated.coefficients, rel=1e-5)


def test_huber_weights_belong_to_the_residuals_and_the_fit_is_stationary():
    """The sum over rows of (clipped residual) x (column over fit) is zero at the optimum."""
    columns = design(400, 5)
    measured = columns @ TRUTH * (1 + 0.03 * np.random.default_rng(6).standard_t(2, 400))
    fit = fit_relative(columns, measured)
    bend = HUBER * spread(fit.residual)
    assert fit.robust_weight == pytest.approx(np.minimum(1, bend / np.abs(fit.residual)), rel=1e-9)
    assert (fit.robust_weight < 1).mean() > 0.05
    relative = columns / fit.scale[:, None]
    pull = relative.T @ (fit.robust_weight * fit.residual)
    assert np.abs(pull / (np.abs(relative).T @ np.abs(fit.residual))).max() < 1e-5


def test_a_coefficient_that_would_be_negative_is_zero_unless_allowed():
    columns = design(300, 7)
    measured = columns @ np.array([0.012, -2e-6, 1.5e-7])
    assert fit_relative(columns, measured).coefficients[1] == 0
    free = fit_relative(columns, measured, non_negative=False).coefficients
    assert free[1] == pytest.approx(-2e-6, rel=1e-4)


def test_the_spread_is_that_of_normal_values_and_a_few_wild_ones_do_not_move_it():
    rng = np.random.default_rng(8)
    values = 3 + 0.5 * rng.standard_normal(40_000)
    values[:40] = 1e6
    assert spread(values, 3.0) == pytest.approx(0.5, rel=0.02)
    medians = [np.median(rng.standard_normal(100)) for _ in range(2000)]
    _, error = median_and_error(rng.standard_normal(40_000))
    assert error * np.sqrt(40_000 / 100) == pytest.approx(np.std(medians), rel=0.06)


@pytest.mark.parametrize("apart", [3e-7, 1e-7, 5e-8])
def test_columns_that_hardly_differ_are_told_apart_where_times_are_exact(apart):
    """Their triangle alone would lose the coefficients: it squares how nearly they depend."""
    rng = np.random.default_rng(0)
    n = rng.uniform(1, 2, 200)
    columns = np.column_stack([n, n * (1 + apart * rng.normal(size=200))])
    found = fit_relative(columns, columns @ [1.0, 2.0], relative_to="measured", robust=False)
    assert found.coefficients == pytest.approx([1.0, 2.0], rel=1e-4)
