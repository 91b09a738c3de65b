"""Percentiles against NumPy, weights against repetition, JSON names and units."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import (
    LATENCIES,
    PER_REQUEST_LATENCIES,
    Distribution,
    FluidServeError,
    LatencySamples,
    ServingMetrics,
)
from serving.metrics import weighted_percentile

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)
TOTALS = {
    "duration": 10.0,
    "completed": 4.0,
    "output_tokens": 40.0,
    "memory_utilization": 0.5,
    "gpu_utilization": 0.9,
    "processing_efficiency": 1.0,
    "evictions": 0.0,
    "recompute_waste": 0.0,
}


@given(values, st.lists(st.floats(0, 100), min_size=1, max_size=5), st.floats(0.01, 100))
def test_equal_weights_give_numpy_percentiles(data, q, weight):
    mine = weighted_percentile(data, np.full(len(data), weight), q)
    assert mine == pytest.approx(np.percentile(data, q), abs=1e-6, rel=1e-6)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 30)), min_size=1, max_size=20))
def test_weights_give_the_moments_of_repetition(pairs):
    data, count = (np.array(each) for each in zip(*pairs, strict=True))
    repeated = np.repeat(data, count)
    found = Distribution.of(data, count.astype(float))
    assert found.mean == pytest.approx(repeated.mean())
    assert found.std == pytest.approx(repeated.std(), abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 9)), min_size=1, max_size=20))
def test_weighted_percentiles_rise_within_the_range_whatever_the_order(pairs):
    data, weight = (np.array(each) for each in zip(*pairs, strict=True))
    q = np.linspace(0, 100, 21)
    found = weighted_percentile(data, weight, q)
    assert (np.diff(found) >= 0).all()
    assert found[0] == data.min() and found[-1] == data.max()
    order = np.argsort(data, kind="stable")[::-1]
    distinct = len(set(data)) == len(data)
    if distinct:
        assert weighted_percentile(data[order], weight[order], q) == pytest.approx(found)


def test_many_small_weights_converge_to_the_quantiles_of_the_density():
    # Density 2x on [0, 1]: the median is sqrt(1/2), the 90th percentile sqrt(.9).
    x = (np.arange(20_000) + 0.5) / 20_000
    found = weighted_percentile(x, 2 * x, [50, 90])
    assert found == pytest.approx(np.sqrt([0.5, 0.9]), abs=1e-4)


def test_no_samples_give_nan_not_an_exception():
    assert np.isnan(weighted_percentile([], [], [50, 99])).all()
    assert np.isnan(weighted_percentile([1.0], [0.0], [50])).all()
    assert np.isnan(Distribution.of(np.empty(0), np.empty(0)).mean)


def samples(tpot=(0.5, np.nan, 1.5, 2.5)) -> LatencySamples:
    return LatencySamples(
        queue_delay=np.array([0.0, 1.0, 2.0, 3.0]),
        ttft=np.array([1.0, 2.0, 3.0, 4.0]),
        tpot=np.array(tpot),
        e2el=np.array([5.0, 2.0, 9.0, 12.0]),
        weight=np.array([1.0, 1.0, 1.0, 3.0]),
    )


def test_undefined_latencies_are_left_out_with_their_weight():
    metrics = ServingMetrics.summarise(samples(), TOTALS)
    assert metrics.latencies["ttft"].mean == pytest.approx((1 + 2 + 3 + 12) / 6)
    assert metrics.latencies["tpot"].mean == pytest.approx((0.5 + 1.5 + 7.5) / 5)
    assert np.isnan(metrics.latencies["itl"].mean)


def test_goodput_counts_what_meets_every_threshold():
    def goodput(**thresholds):
        return ServingMetrics.summarise(samples(), TOTALS, thresholds).request_goodput

    assert goodput() is None
    assert goodput(ttft=3.0) == pytest.approx(3 / 10)
    assert goodput(ttft=3.0, e2el=5.0) == pytest.approx(2 / 10)
    # A request of one token has no time per output token to miss.
    assert goodput(tpot=1.0) == pytest.approx(2 / 10)


@pytest.mark.parametrize("name", [*LATENCIES, "ttfb", "weight"])
def test_goodput_takes_what_a_request_has_one_of_and_nothing_else(name):
    tokens = {"itl": np.arange(30.0), "itl_weight": np.ones(30)}
    latencies = {each: getattr(samples(), each) for each in (*PER_REQUEST_LATENCIES, "weight")}
    measured = LatencySamples(**latencies, **tokens)
    if name in PER_REQUEST_LATENCIES:
        found = ServingMetrics.summarise(measured, TOTALS, {name: 1e9})
        assert found.request_goodput == pytest.approx(6 / 10)
    else:
        with pytest.raises(FluidServeError, match=f"{name}.*ttft, tpot, e2el, queue_delay"):
            ServingMetrics.summarise(measured, TOTALS, {name: 1.0})


def test_a_run_that_took_no_time_has_no_goodput():
    found = ServingMetrics.summarise(samples(), TOTALS | {"duration": 0.0}, {"ttft": 2.0})
    assert found.request_goodput is None


@pytest.mark.parametrize(
    ("unit", "suffix", "factor"), [("none", "", 1), ("s", "_ms", 1000), ("ms", "_ms", 1)]
)
def test_json_has_the_names_and_units_of_vllm_bench(unit, suffix, factor):
    out = ServingMetrics.summarise(samples(), TOTALS).to_json(unit)
    assert out[f"mean_ttft{suffix}"] == pytest.approx(3.0 * factor)
    expected = {"duration", "completed", "request_throughput", "output_throughput"}
    names = ("ttft", "tpot", "itl", "e2el")
    expected |= {f"{kind}_{name}{suffix}" for name in names for kind in ("mean", "std", "p99")}
    expected |= {f"median_{name}{suffix}" for name in names} | {"request_goodput"}
    assert expected <= set(out)
    assert out["request_throughput"] == 0.4 and out["output_throughput"] == 4.0
    assert out[f"mean_itl{suffix}"] is None
    json.dumps(out, allow_nan=False)


def test_totals_of_some_engines_are_left_out_where_nobody_knows_them():
    out = ServingMetrics.summarise(samples(), TOTALS).to_json()
    assert list(out)[-1] == "recompute_waste" and set(TOTALS) - {"output_tokens"} <= set(out)
    found = ServingMetrics.summarise(samples(), TOTALS | {"saved_tokens": 0.0}).to_json()
    assert found == out | {"saved_tokens": 0.0}
    nobody = {name: value for name, value in TOTALS.items() if name != "evictions"}
    assert ServingMetrics.summarise(samples(), nobody).to_json()["evictions"] is None


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 9)), min_size=1, max_size=30))
def test_whole_weights_count_samples(pairs):
    values, weight = map(np.array, zip(*pairs, strict=True))
    q = np.array([0.0, 12.5, 50, 90, 99, 100])
    found = weighted_percentile(values, weight, q)
    if weight.sum() == 0:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(
            found, np.percentile(np.repeat(values, weight), q), rtol=1e-12, atol=1e-9
        )
