"""Rate shapes against numerical integration of the rate they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from serving import ConfigError, RateProfile, WorkloadError
from workload import Constant, Curve, Ramp, Sine, Steps, parse_rate_shape

CASES = [
    (Constant(), lambda t: np.ones_like(t)),
    (Steps((0, 10, 25), (0.5, 1.5, 0.0)), lambda t: np.select([t < 10, t < 25], [0.5, 1.5], 0.0)),
    (Steps((0, 2), (4, 0.25), period=10), lambda t: np.where(t % 10 < 2, 4.0, 0.25)),
    (Sine(0.8, 7.0), lambda t: 1 + 0.8 * np.sin(2 * np.pi * t / 7)),
    (Ramp(0.5, 2.0, 20.0), lambda t: 0.5 + 1.5 * np.minimum(t / 20, 1)),
    (Ramp(3.0, 0.0, 15.0), lambda t: 3 * np.maximum(1 - t / 15, 0)),
]


@pytest.mark.parametrize(("shape", "factor"), CASES)
@pytest.mark.parametrize("horizon", [3.0, 20.0, 47.5])
def test_profile_is_the_integral_of_the_rate(shape, factor, horizon):
    profile = shape.profile(2.0, horizon)
    assert profile.horizon == pytest.approx(horizon)
    middle = (np.arange(400_000) + 0.5) * horizon / 400_000
    integral = np.append(0, np.cumsum(2.0 * factor(middle)) * horizon / 400_000)
    for share in (0.1, 0.37, 0.8, 1.0):
        expected = integral[round(share * 400_000)]
        assert profile.count(share * horizon) == pytest.approx(expected, rel=3e-3, abs=3e-3)


@pytest.mark.parametrize("shape", [shape for shape, _ in CASES])
def test_stretching_leaves_the_expected_count_and_moves_it_in_time(shape):
    before = shape.profile(2.0, 30.0)
    after = shape.stretched(3.0).profile(2.0 / 3.0, 90.0)
    t = np.linspace(0, 30, 40)
    assert after.count(3 * t) == pytest.approx(before.count(t), rel=1e-9, abs=1e-9)


def test_curve_follows_a_given_profile_and_ends_with_it():
    relative = RateProfile(np.array([0.0, 4.0, 4.0, 10.0]), np.array([0.0, 2.0, 5.0, 8.0]))
    shape = Curve(relative)
    for horizon in (3.0, 4.0, 10.0, 50.0):
        profile = shape.profile(2.0, horizon)
        t = np.linspace(0, horizon, 33)
        assert profile.count(t) == pytest.approx(2 * relative.count(t))
    longer = shape.stretched(2.0).profile(1.0, 20.0)
    assert longer.count(20.0) == pytest.approx(2 * relative.count(10.0))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("constant", Constant()),
        (" steps(0:0.5, 1000:1.5) ", Steps((0, 1000), (0.5, 1.5))),
        ("steps(0:4,20:0.25,period=100)", Steps((0, 20), (4, 0.25), 100.0)),
        ("sine(amplitude=0.5,period=100)", Sine(0.5, 100.0)),
        ("ramp(first=0.5, last=2, duration=10)", Ramp(0.5, 2.0, 10.0)),
    ],
)
def test_text_names_a_shape(text, shape):
    assert parse_rate_shape(text) == shape


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step(0:1)",
        "steps",
        "steps(0:1",
        "steps(0:x)",
        "steps(5:1)",
        "steps(0:1,0:2)",
        "steps(0:-1)",
        "steps(0:nan)",
        "steps(0:0)",
        "steps(0:1,5:2,period=5)",
        "steps(0:1:2)",
        "sine(amplitude=2,period=1)",
        "sine(amplitude=0.5)",
        "sine(amplitude=0.5,period=0)",
        "sine(0.5,1)",
        "ramp(first=0,last=0,duration=1)",
        "ramp(first=1,last=2,duration=inf)",
        "constant(1)",
    ],
)
def test_text_that_names_none_is_refused_with_the_key(text):
    with pytest.raises(ConfigError, match="config key 'rate_shape'"):
        parse_rate_shape(text)


def test_shapes_refuse_what_is_not_a_rate():
    with pytest.raises(WorkloadError, match="one factor per start"):
        Steps((0.0, 1.0), (1.0,))
