"""Regimes, their edges, and how sure they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import ode
from fluid import capacity
from ode.error_model.capacity import CapacityError, capacity_error
from ode.error_model.model import Expected
from ode.regimes import Edge, RegimeReport, regime_report
from serving import BatchTimeLaw, DecodeNode, RequestMix, VllmV0, VllmV1

KNOWN = DecodeNode(
    BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
)
ALIKE = RequestMix.from_lengths([20], [20])
LAW = BatchTimeLaw(d_0=0.012, d_decode=6e-5, d_kv=1e-8, d_prefill=6e-5)
SERVER = VllmV1(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=256)
ANSWERS = RequestMix.from_lengths([400], [200])


def test_edges_of_the_known_experiment():
    report = regime_report(ALIKE, KNOWN, 5.0)
    assert report.name == ode.regime(ALIKE, KNOWN, 5.0) == "bistable"
    assert [edge.name for edge in report.edges] == ["capacity", "queued"]
    assert [edge.rate for edge in report.edges] == pytest.approx([5.1182, 3.9026], abs=2e-4)
    assert report.distance == pytest.approx(5.0 / 5.1182 - 1, abs=1e-4)
    swaps = regime_report(ALIKE, replace(KNOWN, mode="swapping"), 5.0)
    assert swaps.name == "healthy" and [edge.name for edge in swaps.edges] == ["capacity"]


def test_a_server_whose_requests_are_alike_is_bistable_below_its_capacity():
    """The march and the engine lose a tenth in step; the closed form knows nothing of it."""
    most, theta = capacity(ANSWERS, SERVER), ode.collapsed_throughput(ANSWERS, SERVER).throughput
    assert 0.85 < theta / most < 0.95
    names = [ode.regime(ANSWERS, SERVER, load * most) for load in (0.8, 0.95, 1.3)]
    assert names == ["healthy", "bistable", "limit_cycle"]


def test_a_small_node_that_chance_fills_at_once_is_behind_and_not_bistable():
    mix = RequestMix.from_lengths([100], [40])
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=600, B=None, mode="sacrifice")
    rate = 0.97 * capacity(mix, node)
    assert ode.collapsed_throughput(mix, node).throughput < rate
    assert ode.regime(mix, node, rate) != "bistable"
    large = node.scaled(2000)
    assert ode.regime(mix, large, 0.9 * capacity(mix, large)) == "bistable"


@pytest.mark.parametrize(("rate", "word"), [(0.9, "high"), (0.97, "low"), (1.06, "high")])
def test_a_regime_is_sure_outside_of_the_intervals_of_its_edges(rate, word):
    error = CapacityError("capacity", Expected(0.0, 0.05))
    edge = Edge("capacity", 1.0, *error.between(1.0))
    report = RegimeReport("healthy", rate, (edge,))
    assert report.confidence == word and "capacity" in report.words
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["edges"][0]["rate"] == 1.0
    unknown = RegimeReport("healthy", rate, (Edge("capacity", 1.0, 0.0, math.inf),))
    assert unknown.confidence == "unknown"
    assert unknown.to_json()["edges"][0]["high"] is None


def test_between_is_the_interval_turned_round():
    """Predicted over engine is within (1 + low, 1 + high): the engine is the prediction over it."""
    error = CapacityError("capacity", Expected(0.02, 0.03))
    low, high = error.between(10.0)
    assert low == pytest.approx(10 * math.exp(-0.05)) and high == pytest.approx(10 * math.exp(0.01))


def test_a_capacity_says_its_error_where_it_was_measured():
    mix = RequestMix.from_lengths([100, 200, 300], [30, 60, 90])
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=8000, B=None)
    error = capacity_error(mix, node)
    assert error.confidence == "high" and 0 < error.bound < 0.05
    assert error.to_json()["low"] < error.to_json()["high"]
    for instance, why in (
        (VllmV0(batch_time=LAW), "vllm_v0"),
        (replace(node, M_total=10**8), "requests that fit"),
        (replace(node, admission_threshold=0.5), "admission_threshold"),
        (replace(node, batch_time=BatchTimeLaw.tabulated([(1, 1.0), (9, 4.0)], 1e-3)), "table"),
    ):
        unknown = capacity_error(mix, instance)
        assert unknown.confidence == "unknown" and why in unknown.words
        assert unknown.bound == math.inf and "low" not in unknown.to_json()
