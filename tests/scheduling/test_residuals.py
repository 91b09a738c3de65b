"""The corrector learns a factor, stays in its bounds, and is off where it would not help."""

from __future__ import annotations

import numpy as np
import pytest

from scheduling.residuals import LEAST_MEASURED, Residuals


def taught(actual, size=400, predicted=1.0):
    made = Residuals()
    for k in range(size):
        assert made.learn(predicted, actual(k))
    return made


def test_it_is_off_until_it_has_earned_it():
    made = Residuals()
    for k in range(LEAST_MEASURED + 5):
        assert made.is_on == (k >= LEAST_MEASURED)
        assert made.factor == (pytest.approx(1.4) if made.is_on else 1.0)
        made.learn(1.0, 1.4)


def test_it_stays_off_where_predictions_are_right_on_the_median():
    draw = np.random.default_rng(1)
    made = taught(lambda _: float(np.exp(draw.normal(0.0, 0.3))))
    assert not made.is_on and made.factor == 1.0


def test_it_finds_a_factor_under_noise_and_follows_drift():
    draw = np.random.default_rng(2)
    made = taught(lambda _: 1.5 * float(np.exp(draw.normal(0.0, 0.2))))
    assert made.factor == pytest.approx(1.5, rel=0.08)
    plain, corrected = made.errors
    assert corrected < 0.6 * plain
    for _ in range(300):
        made.learn(1.0, 0.8 * float(np.exp(draw.normal(0.0, 0.2))))
    assert made.factor == pytest.approx(0.8, rel=0.1)


@pytest.mark.parametrize(("actual", "factor"), [(50.0, 2.0), (0.001, 0.5)])
def test_it_is_bounded(actual, factor):
    assert taught(lambda _: actual).factor == factor


def test_what_no_factor_helps_is_left_alone():
    assert taught(lambda _: 5e-324, predicted=10.0).factor == 1.0


def test_a_few_wild_measurements_move_it_little():
    assert not taught(lambda k: 1e6 if k % 10 == 0 else 1.0).is_on


def test_bounds_hold_nine_of_ten():
    draw = np.random.default_rng(4)
    made = taught(lambda _: 1.3 * float(np.exp(draw.normal(0.0, 0.4))))
    low, high = made.spread(0.05, 0.95)
    fresh = 1.3 * np.exp(draw.normal(0.0, 0.4, 4000)) / made.factor
    assert ((fresh > low) & (fresh < high)).mean() == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, 0.0), (np.nan, 1.0), (1.0, np.inf), (-1, 1)])
def test_what_says_nothing_is_not_learnt(pair):
    made = Residuals()
    assert not made.learn(*pair) and made.measured == 0 and made.errors is None
    assert made.spread(0.05, 0.95) == (1.0, 1.0)
