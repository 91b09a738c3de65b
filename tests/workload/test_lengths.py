"""Length distributions against closed forms, and exact mixes against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import WorkloadError
from workload import LengthDistribution, RequestClass, mix_of
from workload.lengths import restricted

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(first=st.integers(1, 300), width=st.integers(0, 200))
def test_uniform_has_the_moments_of_whole_numbers_with_both_ends(first, width):
    uniform = LengthDistribution.uniform(first, first + width)
    assert uniform.value[0] == first and uniform.value[-1] == first + width
    assert uniform.mean == pytest.approx(first + width / 2)
    assert uniform.variance == pytest.approx(((width + 1) ** 2 - 1) / 12, abs=1e-9)


@given(mean=st.floats(1.0, 200.0))
def test_geometric_has_its_mean_variance_and_constant_hazard(mean):
    geometric = LengthDistribution.geometric(mean)
    assert geometric.mean == pytest.approx(mean, rel=1e-8)
    assert geometric.variance == pytest.approx(mean * (mean - 1), rel=1e-6, abs=1e-6)
    survival = np.append(1.0, 1 - np.cumsum(geometric.probability))
    early = survival[:-1] > 1e-6
    hazard = geometric.probability[early] / survival[:-1][early]
    assert hazard == pytest.approx(np.full(hazard.size, 1 / mean), rel=1e-4) or mean == 1


@given(mean=st.floats(20.0, 200.0), cv=st.floats(0.2, 2.0))
def test_lognormal_has_its_mean_cv_and_median_but_for_rounding_up(mean, cv):
    drawn = LengthDistribution.lognormal(mean, cv, tail=1e-9)
    # rounded up: half a token more on average
    assert drawn.mean == pytest.approx(mean + 0.5, rel=2e-3, abs=0.2)
    assert drawn.variance == pytest.approx((cv * mean) ** 2, rel=0.05, abs=1.0)
    median = drawn.value[np.searchsorted(np.cumsum(drawn.probability), 0.5)]
    assert abs(median - (mean / np.sqrt(1 + cv**2) + 0.5)) <= 1.0


@given(lengths)
def test_empirical_equals_numpy_on_the_data(data):
    empirical = LengthDistribution.empirical(data)
    assert empirical.mean == pytest.approx(np.mean(data))
    assert empirical.variance == pytest.approx(np.var(data), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.1, 5), lengths), min_size=1, max_size=4))
def test_mixture_follows_the_laws_of_total_mean_and_variance(parts):
    weight = np.array([w for w, _ in parts]) / sum(w for w, _ in parts)
    mean = np.array([np.mean(data) for _, data in parts])
    variance = np.array([np.var(data) for _, data in parts])
    mixture = LengthDistribution.mixture([(w, LengthDistribution.empirical(x)) for w, x in parts])
    assert mixture.mean == pytest.approx(weight @ mean)
    total = weight @ variance + weight @ (mean - weight @ mean) ** 2
    assert mixture.variance == pytest.approx(total, abs=1e-7)
    assert (np.diff(mixture.value) > 0).all()


@pytest.mark.parametrize(
    ("value", "probability", "reason"),
    [
        ([1, 0], [1.0, 1.0], "value 0: allowed: a whole number >= 1"),
        ([1, 1.5], [1.0, 1.0], "value 1.5: allowed: a whole number >= 1"),
        ([1, 2], [1.0], "one probability per length"),
        ([1], [-1.0], "probabilities"),
        ([1], [float("nan")], "probabilities"),
        ([], [], "one probability per length"),
    ],
)
def test_impossible_distributions_are_refused(value, probability, reason):
    with pytest.raises(WorkloadError, match=reason):
        LengthDistribution(np.array(value), np.array(probability))


def test_constructors_refuse_impossible_parameters():
    with pytest.raises(WorkloadError, match="from low to high"):
        LengthDistribution.uniform(9, 3)
    for mean in (0.5, float("nan"), float("inf")):
        with pytest.raises(WorkloadError, match="mean of a geometric"):
            LengthDistribution.geometric(mean)
    for mean, cv in ((0.0, 1.0), (float("nan"), 1.0), (10.0, 0.0), (10.0, float("inf"))):
        with pytest.raises(WorkloadError, match="lognormal"):
            LengthDistribution.lognormal(mean, cv)
    with pytest.raises(WorkloadError, match="reach"):
        LengthDistribution.lognormal(1000.0, 10.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 5),
            st.lists(st.integers(1, 9), min_size=1, max_size=5),
            st.lists(st.integers(1, 9), min_size=1, max_size=5),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_mix_is_the_exact_product_within_classes(parts):
    classes = [
        RequestClass(str(j), w, LengthDistribution.empirical(p), LengthDistribution.empirical(d))
        for j, (w, p, d) in enumerate(parts)
    ]
    mix = mix_of(classes)
    total = sum(w for w, _, _ in parts)
    brute: dict[tuple[int, int, int], float] = {}
    for j, (w, p, d) in enumerate(parts):
        for one, other in itertools.product(p, d):
            key = (j, one, other)
            brute[key] = brute.get(key, 0.0) + w / total / len(p) / len(d)
    mine = {
        (int(c), int(p), int(d)): prob
        for c, p, d, prob in zip(
            mix.request_class, mix.prefill, mix.decode, mix.probability, strict=True
        )
    }
    assert mine == pytest.approx(brute)


def test_a_mix_too_large_to_hold_is_refused_not_built():
    wide = LengthDistribution.uniform(1, 4000)
    with pytest.raises(WorkloadError, match="allowed: <= 5000000"):
        mix_of([RequestClass("wide", 1.0, wide, wide)])


def test_a_class_without_weight_is_refused():
    one = LengthDistribution.deterministic(3)
    with pytest.raises(WorkloadError, match="weight of class 'x'"):
        mix_of([RequestClass("x", 0.0, one, one)])


def test_restricted_is_the_conditional_mix():
    one = LengthDistribution.uniform
    mix = mix_of([RequestClass("x", 1.0, one(1, 2), one(1, 4))])
    short, share = restricted(mix, 3)
    assert share == pytest.approx(0.75)
    assert short.longest_decode == 3 and short.mean_decode == pytest.approx(2.0)
    with pytest.raises(WorkloadError, match="drops every request"):
        restricted(mix, 0)
