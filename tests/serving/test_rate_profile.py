"""The algebra of cumulative arrival curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import RateProfile, WorkloadError


@st.composite
def profiles(draw):
    knots = draw(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=9))
    time, count = np.cumsum([(0.0, draw(st.floats(0, 3))), *knots, (1.0, 1.0)], axis=0).T
    return RateProfile(time, count)


@given(profiles(), st.floats(0.1, 10), st.lists(st.floats(-1, 120), min_size=1, max_size=9))
def test_scaling_multiplies_counts_and_stretching_moves_them(profile, factor, at):
    at = np.array(at)
    assert profile.scaled(factor).count(at) == pytest.approx(factor * profile.count(at))
    # A jump moves by a rounding of time: compare where the curve is continuous.
    gap = np.abs(at[:, None] - profile.time).min(axis=1) > 1e-9
    stretched = profile.stretched(factor)
    assert stretched.count(factor * at[gap]) == pytest.approx(
        profile.count(at[gap]), abs=1e-6, rel=1e-6
    )
    assert stretched.mean_rate == pytest.approx(profile.mean_rate / factor)


@given(profiles(), st.lists(st.floats(-1, 120), min_size=2, max_size=20, unique=True))
def test_counts_never_fall_and_are_flat_outside(profile, at):
    at = np.sort(at)
    count = profile.count(at)
    assert (np.diff(count) >= -1e-9).all()
    assert (count[at < 0] == 0).all()
    assert (count[at >= profile.horizon] == profile.total).all()
    edges = np.linspace(0, profile.horizon, 7)
    area = profile.mean_rate_between(edges) @ np.diff(edges)
    assert area == pytest.approx(profile.total - profile.count(0.0))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30))
def test_a_trace_s_own_curve_counts_its_arrivals(arrival):
    arrival = np.sort(arrival)
    profile = RateProfile.from_arrivals(arrival)
    at = np.concatenate([arrival, arrival + 0.01, np.linspace(0, 60, 13)])
    assert (profile.count(at) == np.searchsorted(arrival, at, side="right")).all()
    assert profile.total == arrival.size and profile.horizon == arrival[-1]
    assert RateProfile.from_arrivals(arrival, 80.0).horizon == 80.0


def test_steps_sine_ramp_and_samples_integrate_their_rate():
    steps = RateProfile.steps([0, 10, 20], [0.5, 1.5, 0.5], 30.0)
    assert steps.count([5, 10, 15, 20, 30, 99]) == pytest.approx([2.5, 5, 12.5, 20, 25, 25])
    sine = RateProfile.sine(2.0, 0.5, 10.0, 40.0)
    t = np.array([2.5, 5.0, 7.5, 10.0, 40.0])
    exact = 2 * (t + 0.5 * 10 / (2 * np.pi) * (1 - np.cos(2 * np.pi * t / 10)))
    assert sine.count(t) == pytest.approx(exact, rel=1e-3)
    ramp = RateProfile.ramp(1.0, 3.0, 8.0)
    assert ramp.count([2, 4, 8]) == pytest.approx([2.5, 6.0, 16.0], rel=1e-3)
    linear = RateProfile.from_rate([0.0, 8.0], [1.0, 3.0])
    assert linear.total == pytest.approx(16.0)
    constant = RateProfile.constant(0.7, 10.0)
    assert constant.mean_rate == pytest.approx(0.7)
    assert constant.mean_rate_between([1, 2, 7]) == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize(
    ("time", "count", "reason"),
    [
        ([0, 1], [0, np.nan], "must be finite"),
        ([0, np.inf], [0, 1], "must be finite"),
        ([0, 1], [1, 0], "rate is negative"),
        ([0, 1], [-1, 0], "rate is negative"),
        ([1, 2], [0, 1], "start at 0"),
        ([0, 2, 1], [0, 1, 2], "never decrease"),
        ([0], [0], "length >= 2"),
        ([0, 1], [0, 1, 2], "equal length"),
    ],
)
def test_what_is_no_profile_is_refused(time, count, reason):
    with pytest.raises(WorkloadError, match=reason):
        RateProfile(np.array(time, float), np.array(count, float))


def test_nan_and_negative_rates_are_refused_by_the_constructors():
    for rate in (float("nan"), -1.0, float("inf")):
        with pytest.raises(WorkloadError, match="rate"):
            RateProfile.constant(rate, 10.0)
