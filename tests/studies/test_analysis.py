"""The analysis of one node: what it puts together, and when it warns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from discrete import simulate
from fluid import capacity, equilibrium
from ode import solve, stationary
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable, UnsupportedError
from studies import Question
from studies import analyze as whoever
from workload import Workload, describe

MIX = describe("normal").mix
NODE = DecodeNode()
analyze = partial(whoever, method="model")
"""Latencies of the model: whom ``auto`` takes has tests of its own."""


def asked(rate, node=NODE, mix=MIX, horizon=None):
    return Question(Workload(mix, rate), node, horizon=horizon)


def test_a_healthy_node():
    rate = 0.6 * capacity(MIX, NODE)
    found = analyze(asked(rate))
    assert found.load == pytest.approx(0.6) and found.regime == "healthy"
    assert found.equilibrium is not None
    assert found.equilibrium.tau == equilibrium(MIX, NODE, rate).tau
    assert found.latencies["ttft"].mean == pytest.approx(
        stationary(MIX, NODE, rate).latencies["ttft"].mean, rel=0.01
    )
    assert found.latencies_are == "stationary"
    assert not found.flips
    assert not any("saturation-sensitive" in line for line in found.warnings)


def test_progress_counts_the_solves_behind_the_sensitivities(monkeypatch):
    told, solved = [], []
    monkeypatch.setattr(
        "studies.analysis.stationary", lambda *a, **k: solved.append(a) or stationary(*a, **k)
    )
    found = analyze(asked(0.6 * capacity(MIX, NODE)), progress=lambda *each: told.append(each))
    total = 2 * len(found.sensitivity["p99_ttft"])
    assert told == [(done, total) for done in range(total + 1)]
    assert len(solved) == total  # the latencies themselves are of :mod:`studies.node_latencies`


def test_sensitivity_fires_at_97_percent_and_not_at_60():
    near = analyze(asked(0.97 * capacity(MIX, NODE)))
    assert near.flips and any("saturation-sensitive" in line for line in near.warnings)


def test_derivatives_are_those_of_a_wider_difference():
    """A central difference of 2 % beside one of 4 %, away from kinks."""
    rate = 0.5 * capacity(MIX, NODE)
    found = analyze(asked(rate))
    wide = [
        stationary(MIX, NODE, rate * (1 + change)).latencies["e2el"].mean
        for change in (-0.04, 0.04)
    ]
    slope = (wide[1] - wide[0]) / (0.08 * rate)
    assert found.sensitivity["mean_e2el"]["arrival_rate"] == pytest.approx(slope, rel=0.05)
    assert found.elasticity["mean_e2el"]["d_0"] > 0
    assert found.elasticity["p99_ttft"]["B"] < 0
    assert found.sensitivity["mean_e2el"]["M_total"] == pytest.approx(0, abs=1e-9)


def test_overload_has_latencies_over_time_only():
    rate = 1.3 * capacity(MIX, NODE)
    found = analyze(asked(rate))
    assert found.regime == "backlogged" and not found.latencies
    assert any("no stationary latencies" in line for line in found.warnings)
    over_time = analyze(asked(rate, horizon=2000.0), over_time=True)
    assert over_time.latencies["ttft"].mean > 50
    assert over_time.elasticity["mean_ttft"]["arrival_rate"] > 1


def test_a_small_node_that_chance_fills_at_once_is_said_what_it_completes():
    """No closed form has its theta_sac, and no cycle lives on in the limit: chance starts them."""
    mix = RequestMix.from_lengths(np.full(39, 50), np.arange(20, 401, 10))
    node = DecodeNode(BatchTimeLaw.per_token(0.02, 1e-5), M_total=2500, B=None, mode="sacrifice")
    rate = 0.95 * capacity(mix, node)
    found = analyze(asked(rate, node, mix))
    assert found.regime == "limit_cycle" and found.certificate.theta_sac is None
    (said,) = [line for line in found.warnings if line.startswith("behind")]
    count, rng = 8000, np.random.default_rng(1)
    at = rng.integers(len(mix), size=count)
    table = RequestTable.validated(
        np.cumsum(rng.exponential(1 / rate, count)), mix.prefill[at].astype(int), mix.decode[at]
    )
    done = simulate(table, node, record_batches=False).requests["completion_time"]
    last = table.arrival_time[-1]
    completed = float((done <= last).sum()) / last
    assert completed < 0.93 * rate  # overloaded, although the load is .95
    assert float(said.split("completes ")[1].split()[0]) == pytest.approx(completed, rel=0.05)


def test_a_bistable_node_is_said_to_be():
    mix = RequestMix.from_lengths([20], [20])
    node = DecodeNode(
        M_total=10_000, B=None, mode="sacrifice", batch_time=BatchTimeLaw.per_token(0.003, 0.00032)
    )
    found = analyze(asked(5.05, node, mix))
    assert found.regime == "bistable"
    assert found.certificate.theta_sac == pytest.approx(3.9026, abs=5e-4)
    (said,) = [line for line in found.warnings if line.startswith("bistable")]
    assert "completes 3.903 of the 5.05 that arrive" in said
    assert any("limit cycle" in line for line in found.warnings)
    swapping = DecodeNode(M_total=10_000, B=None, batch_time=BatchTimeLaw.per_token(0.003, 0.00032))
    assert analyze(asked(5.05, swapping, mix)).regime == "healthy"


def test_policies_that_are_not_modelled_are_refused():
    with pytest.raises(UnsupportedError, match="SJF"):
        analyze(asked(0.05, DecodeNode(queue_policy="SJF")))
    labels = analyze(asked(0.05, DecodeNode(queue_policy="SJF")), approximate=True).warnings
    assert any("SJF" in line for line in labels)


def test_burstiness_is_in_the_latencies_and_said():
    rate = 0.8 * capacity(MIX, NODE)
    found = {
        burstiness: analyze(
            Question(describe("normal", burstiness=burstiness, arrival_rate=rate), NODE)
        )
        for burstiness in (0.25, 1.0, 4.0)
    }
    means = [each.latencies["ttft"].mean for each in found.values()]
    assert means[0] > 2 * means[1] and means[1] > 1.2 * means[2]
    said = [any("not Poisson" in line for line in each.warnings) for each in found.values()]
    assert said == [True, False, True]


def test_a_rate_that_changes_is_said_to_be_taken_at_its_mean():
    for asked_for in (
        Question(describe("bursty", arrival_rate=0.1), NODE),
        Question(describe("normal", arrival_rate=0.1).sample(num_requests=200), NODE),
    ):
        assert any("at the mean rate" in line for line in analyze(asked_for).warnings)
    over_time = Question(describe("bursty", arrival_rate=0.1), NODE, horizon=300.0)
    found = analyze(over_time, over_time=True)
    assert not any("at the mean rate" in line for line in found.warnings)


@pytest.mark.parametrize("over_time", [False, True])
def test_the_caveats_of_the_model_of_one_node_are_those_of_its_solution(over_time):
    node = DecodeNode(B=None, mode="sacrifice").scaled(300)
    rate = 0.3 * capacity(MIX, node)
    question = asked(rate, node, horizon=20.0)
    said = solve(question.profile, MIX, node, method="node_work").labels
    assert len(said) == 2  # sacrifices, and so many requests
    assert set(said) <= set(analyze(question, over_time=over_time).warnings)
