"""Which few per cent decide whether a node keeps up, against capacities computed here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import (
    PARAMETER_UNITS,
    capacity,
    parameter_values,
    saturation_sensitivity,
    with_mean_decode,
    with_mean_prefill,
)
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RequestMix

MIX = RequestMix.from_lengths([20, 200, 5], [30, 90, 2], [0.7, 0.2, 0.1], [0, 1, 0])


def test_it_fires_near_saturation_and_not_far_from_it():
    node = DecodeNode()
    near = saturation_sensitivity(MIX, node, 0.97 * capacity(MIX, node))
    assert {(flip.parameter, round(flip.change, 2)) for flip in near} == {
        ("arrival_rate", 0.05), ("mean_decode", 0.05), ("d_kv", 0.05),
    }  # fmt: skip
    assert all(flip.verdict == "overloaded" and flip.load < 1 <= flip.changed_load for flip in near)
    assert saturation_sensitivity(MIX, node, 0.6 * capacity(MIX, node)) == []
    assert saturation_sensitivity(MIX, node, 1.4 * capacity(MIX, node)) == []


def test_an_overload_that_a_few_per_cent_would_cure():
    node = DecodeNode()
    flips = saturation_sensitivity(MIX, node, 1.03 * capacity(MIX, node))
    assert {flip.verdict for flip in flips} == {"keeps up"}
    assert {"arrival_rate", "mean_decode"} <= {flip.parameter for flip in flips}


def test_memory_and_threshold_where_they_bind():
    node = DecodeNode(
        BatchTimeLaw.per_token(5.0, 1e-3), M_total=4000, B=None, admission_threshold=0.8
    )
    rate = 0.99 * capacity(MIX, node)
    found = {(flip.parameter, flip.changed_value) for flip in
             saturation_sensitivity(MIX, node, rate)}  # fmt: skip
    assert ("M_total", 3800.0) in found
    assert ("admission_threshold", 0.76) in {(name, round(x, 9)) for name, x in found}
    assert "B" not in {name for name, _ in found}


@settings(max_examples=60, deadline=None)
@given(
    load=st.floats(0.8, 1.2),
    change=st.floats(0.01, 0.2),
    budget=st.sampled_from([1000, 3000, None]),
    kappa=st.sampled_from([0.7, 1.0]),
    d_decode=st.floats(0, 0.05),
)
def test_every_flip_is_one_and_none_is_missed(load, change, budget, kappa, d_decode):
    law = BatchTimeLaw(d_0=2.0, d_decode=d_decode, d_kv=1e-3)
    node = DecodeNode(law, M_total=5000, B=budget, admission_threshold=kappa)
    rate = load * capacity(MIX, node)
    found = {(flip.parameter, flip.change > 0): flip for flip in
             saturation_sensitivity(MIX, node, rate, change)}  # fmt: skip
    for up in (False, True):
        factor = 1 + change if up else 1 - change
        cases = {
            "arrival_rate": (rate * factor, MIX, node),
            "d_0": (rate, MIX, replace(node, batch_time=replace(law, d_0=2.0 * factor))),
            "d_kv": (rate, MIX, replace(node, batch_time=replace(law, d_kv=1e-3 * factor))),
            "M_total": (rate, MIX, replace(node, M_total=round(5000 * factor))),
        }
        for name, (new_rate, mix, new) in cases.items():
            expected = (new_rate / capacity(mix, new) < 1) != (rate / capacity(MIX, node) < 1)
            assert ((name, up) in found) == expected, name
    for flip in found.values():
        assert abs(flip.change) <= change * 1.001 + 1e-3
        assert (flip.load < 1) != (flip.changed_load < 1)


@settings(max_examples=50, deadline=None)
@given(factor=st.floats(0.6, 1.5))
def test_mixes_with_other_means(factor):
    mix = RequestMix.from_lengths([20, 200, 5], [30, 90, 4], [0.7, 0.2, 0.1])
    longer = with_mean_decode(mix, mix.mean_decode * factor)
    assert longer.mean_decode == pytest.approx(mix.mean_decode * factor)
    assert longer.mean_prefill == pytest.approx(mix.mean_prefill)
    assert np.isclose(longer.probability.sum(), 1.0)
    other = with_mean_prefill(mix, mix.mean_prefill * factor)
    assert other.mean_prefill == pytest.approx(mix.mean_prefill * factor)
    assert (other.prefill >= 0).all() and (other.decode == mix.decode).all()


def test_every_parameter_has_a_value_and_a_unit():
    values = parameter_values(MIX, DecodeNode(B=None), 0.1)
    assert values.keys() == PARAMETER_UNITS.keys()
    assert values["B"] == float("inf")


@pytest.mark.parametrize(
    ("rate", "change"), [(0.0, 0.05), (float("nan"), 0.05), (0.1, 0.0), (0.1, 1.0)]
)
def test_bad_input(rate, change):
    with pytest.raises(FluidServeError, match="not allowed"):
        saturation_sensitivity(MIX, DecodeNode(), rate, change)
