"""The search of a crossing on made-up runs: a margin of known root, with noise of known size."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.tuning.crossing import CrossingSearch
from studies.tuning.engine import Measurement, Point
from studies.tuning.knobs import MAX_RATE, Knob
from studies.tuning.settings import SearchSettings


def knob(integer):
    return Knob(
        "made up", "a test", "larger", "log", lambda question, _: question,
        lambda _: (1.0, 1e4), lambda _: (1.0, 1e4), integer,
    )  # fmt: skip


class Runs:
    """Runs whose margin is ``sign slope log(value / root)`` and noise over the root of length."""

    def __init__(self, root, slope, sign=1.0, noise=0.0, seed=0):
        self.root, self.slope, self.sign, self.noise = root, slope, sign, noise
        self.rng, self.asked = np.random.default_rng(seed), []

    def expected(self, value):
        return self.sign * self.slope * math.log(value / self.root)

    def point(self, value, length, most):
        self.asked.append(value)
        spread = self.noise / math.sqrt(length)
        margins = self.expected(value) + spread * self.rng.normal(size=16 if most is None else most)
        parts = {"made up": self.expected(value) + spread * self.rng.normal(size=20) * 4.5}
        return Point(value, length, [
            Measurement(values={}, margins={"made up": float(m)}, parts=parts) for m in margins
        ])  # fmt: skip

    def search(self, whole, tolerance=0.01, guess=None, fluid=True):
        expected = self.expected if fluid else lambda _: None
        search = CrossingSearch(
            knob(whole), (1.0, 1e4), SearchSettings(tolerance=tolerance), self.point, expected
        )
        ends = (self.point(value, 20_000, 3) for value in (1.0, 1e4))
        return search.find(*ends, guess)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.floats(0.05, 0.95), st.floats(0.2, 20.0), st.sampled_from([1.0, -1.0]),
    st.booleans(), st.floats(0.5, 2.0),
)  # fmt: skip
def test_a_whole_number_changes_its_verdict_between_neighbours(low, part, slope, sign, fluid, off):
    runs = Runs(low + part, slope, sign)
    found = runs.search(True, guess=off * (low + part), fluid=fluid)
    assert found is not None and found.bracket == (low, low + 1)
    assert (found.met.value < found.missed.value) == (sign > 0)
    assert len(runs.asked) < 60


@settings(max_examples=60, deadline=None)
@given(
    st.floats(2.0, 5000.0), st.floats(0.2, 20.0), st.sampled_from([1.0, -1.0]), st.booleans(),
    st.floats(0.5, 2.0), st.sampled_from([0.003, 0.01, 0.1]),
)  # fmt: skip
def test_a_bracket_holds_the_root_and_is_as_narrow_as_asked(root, slope, sign, fluid, off, width):
    runs = Runs(root, slope, sign)
    found = runs.search(False, width, guess=off * root, fluid=fluid)
    assert found is not None
    low, high = found.bracket
    assert low <= root <= high and math.log(high / low) <= width * (1 + 1e-6)
    assert found.estimate == pytest.approx(root, rel=width**2)
    assert len(runs.asked) < 60


@pytest.mark.parametrize(("noise", "brackets", "most"), [(1.0, 2, 9), (10.0, 4, 30)])
def test_under_noise_the_crossing_is_found_near_its_place_by_few_runs(noise, brackets, most):
    asked = []
    for seed in range(40):
        runs = Runs(137.0, 2.0, noise=noise, seed=seed)
        found = runs.search(False, 0.01, guess=150.0)
        assert found is not None
        middle = math.sqrt(math.prod(found.bracket))
        assert middle == pytest.approx(137.0, rel=brackets * 0.01)
        asked.append(len(runs.asked))
    assert np.mean(asked) < most


def test_a_whole_number_takes_some_ten_runs():
    rng = np.random.default_rng(3)
    asked = []
    for _ in range(100):
        runs = Runs(rng.integers(1, 60) + rng.uniform(0.05, 0.95), rng.uniform(0.2, 20))
        runs.search(True, guess=rng.uniform(0.5, 2) * runs.root)
        asked.append(len(runs.asked))
    assert np.mean(asked) < 11


@given(
    values=st.sets(st.integers(1, 64), min_size=2, max_size=8),
    at=st.floats(0.5, 100), picks=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)  # fmt: skip
def test_a_knob_of_few_values_never_leaves_them(values, at, picks):
    able = tuple(float(each) for each in sorted(values))
    knob = replace(MAX_RATE, values=able)
    assert knob.rounded(at) == min(able, key=lambda each: (abs(math.log(each / at)), each))
    low, high = sorted(able[pick % len(able)] for pick in picks)
    between = [each for each in able if low < each < high]
    assert knob.has_between(low, high) == bool(between)
    if between:
        assert knob.inside(at, low, high) in between
    for value in able:
        after = [each for each in able if each > value]
        before = [each for each in able if each < value]
        assert knob.next_to(value, upward=True) == (after[0] if after else value)
        assert knob.next_to(value, upward=False) == (before[-1] if before else value)


@given(st.integers(1, 999), st.integers(1, 999), st.floats(0.0005, 1.2))
def test_a_knob_with_a_step_has_its_multiples(first, second, at):
    knob = replace(MAX_RATE, step=0.001)
    low, high = sorted((first / 1000, second / 1000))
    assert knob.rounded(low) == low and knob.has_between(low, high) == (abs(first - second) > 1)
    if abs(first - second) > 1:
        value = knob.inside(at, low, high)
        assert low < value < high and round(1000 * value) / 1000 == value
