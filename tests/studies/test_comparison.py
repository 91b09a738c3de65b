"""Scores against their definition, and the fluid limit against the engine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.profiles import find
from fluid import capacity
from serving import NRMSE_OUTPUTS, DecodeNode, Trajectory, UnsupportedError
from studies import Question, Replications, compare
from studies.comparison.scores import nrmse
from workload import describe, generate

NODE = DecodeNode()
WORKLOAD = describe("normal", arrival_rate=0.1)


def test_nrmse_is_the_rms_over_the_grid_in_units_of_what_is_in_the_system():
    grid = np.linspace(0, 10, 1000)
    mean = Trajectory(grid, {name: 1 + grid for name in NRMSE_OUTPUTS})
    fluid = Trajectory(grid, {name: 1.5 + grid for name in NRMSE_OUTPUTS})
    scores = nrmse(fluid, mean)
    assert set(scores) == set(NRMSE_OUTPUTS)
    assert scores.pop("completed") == pytest.approx(0.5 / 11)
    for value in scores.values():
        assert value == pytest.approx(0.5 / 6)
    assert nrmse(mean, mean) == dict.fromkeys(NRMSE_OUTPUTS, 0.0)


def test_noise_floor_is_the_standard_error_in_the_same_units():
    found = compare(Question(WORKLOAD, NODE, num_requests=60), (), Replications(6))
    for name in NRMSE_OUTPUTS:
        sd, mean = (part.outputs[name] for part in (found.discrete.sd, found.discrete.mean))
        unit = mean[-1] if name == "completed" else found.discrete.mean.outputs["in_system"].mean()
        expected = np.sqrt(np.mean(sd**2) / 6) / unit
        assert found.noise_floor[name] == pytest.approx(expected)
    assert found.single_run_noise == pytest.approx(found.noise_floor["in_system"] * 6**0.5)


def test_the_fluid_gets_the_exact_workload_or_the_file_s_own_curve_and_mix():
    asked = Question(WORKLOAD, NODE, horizon=100.0)
    assert asked.mix is WORKLOAD.mix and asked.profile.total == pytest.approx(10.0)
    table = generate(num_requests=30)
    asked = Question(table, NODE)
    assert (asked.profile.count(table.arrival_time) == np.arange(1, 31)).all()
    assert asked.mix.mean_decode == pytest.approx(table.decode_length.mean())


@pytest.mark.parametrize("source", [WORKLOAD, generate(num_requests=80, arrival_rate=0.1)])
def test_json_has_the_agreed_names_and_only_what_json_can_hold(source):
    length = {"num_requests": 80} if source is WORKLOAD else {}
    found = compare(Question(source, NODE, **length), ("lagrangian",), Replications(3))
    out = json.loads(json.dumps(found.to_json(), allow_nan=False))
    method = out["methods"]["lagrangian"]
    assert set(method["nrmse"]) == set(method["noise_floor"]) == set(NRMSE_OUTPUTS)
    assert method["seconds"] > 0 and out["discrete"]["seconds"] > 0
    assert out["discrete"]["replications"] == 3
    assert set(method["metrics"]) == set(out["discrete"]["metrics"]) >= {"mean_ttft", "p99_e2el"}
    assert found.discrete.run.metrics().completed == 80
    assert found.methods["lagrangian"].sampled.time.size == 1000


def test_one_replication_has_no_noise_floor():
    out = compare(Question(WORKLOAD, NODE, num_requests=20), (), Replications(1)).to_json()
    assert out["discrete"]["noise_floor"] == dict.fromkeys(NRMSE_OUTPUTS)


def test_units_of_the_instance_reach_the_metrics():
    node = DecodeNode(time_unit="s")
    out = compare(Question(WORKLOAD, node, num_requests=20), ("lagrangian",), Replications(2))
    for block in (out.to_json()["discrete"], out.to_json()["methods"]["lagrangian"]):
        assert "mean_ttft_ms" in block["metrics"]


def test_an_unknown_method_is_refused_before_the_replications():
    def never(step, done, total):
        pytest.fail("a replication ran")

    with pytest.raises(UnsupportedError, match="'euler'; there are: lagrangian"):
        compare(Question(WORKLOAD, NODE, num_requests=9), ("euler",), told=never)


@pytest.mark.parametrize("load", [0.4, 0.8])
def test_a_large_node_is_where_the_fluid_says(load):
    node = NODE.scaled(100)
    question = Question(WORKLOAD, node, horizon=600.0).at_load(load)
    found = compare(question, ("lagrangian",), Replications(32, workers=1))
    result = found.methods["lagrangian"]
    for name in ("waiting", "running", "in_system", "completed"):
        # Bias of order 1/n, and the noise that is left in the mean.
        assert result.nrmse[name] < 0.006 + 2 * found.noise_floor[name]
    for name in ("ttft", "tpot", "e2el"):
        fluid, discrete = (m.latencies[name].mean for m in (result.metrics, found.discrete.metrics))
        assert fluid == pytest.approx(discrete, rel=0.02)


def test_a_method_that_cannot_solve_it_is_left_out():
    workload = describe("normal").at_rate(0.1)
    done = compare(
        Question(workload, DecodeNode(), num_requests=30),
        {"lagrangian": {}, "eulerian_jax": {"max_steps": 10}},
        Replications(2, workers=1),
        metrics=False,
    )
    assert set(done.methods) == {"lagrangian"}
    assert "step_limit" in done.failed["eulerian_jax"]
    assert done.to_json()["failed"] == dict(done.failed)


def concave(n: int) -> DecodeNode:
    """A measured mixture of experts, n times as large; a linear law is 45 % off it."""
    law = find("Qwen3-30B-A3B", "RTXPRO6000").law.batch_time()
    return DecodeNode(law, M_total=50_000, B=40_000).scaled(n)


@pytest.mark.slow
def test_a_concave_law_is_the_same_for_the_engine_and_the_fluid():
    node, mix = concave(100), WORKLOAD.mix
    workload = describe("normal", rate_shape="constant").at_rate(0.8 * capacity(mix, node))
    methods = ("lagrangian", "eulerian_jax")
    question = Question(workload, node, horizon=20.0, seed=3)
    found = compare(question, methods, Replications(4))
    said = found.to_json()
    exact = said["discrete"]["metrics"]
    for name in methods:
        method = said["methods"][name]
        assert method["nrmse"]["in_system"] <= 1.5 * method["noise_floor"]["in_system"]
        for key in ("mean_ttft", "mean_e2el", "p99_e2el"):
            assert method["metrics"][key] == pytest.approx(exact[key], rel=0.01), (name, key)


@pytest.mark.slow
def test_a_concave_law_is_the_same_for_the_engine_and_one_node_s_work():
    node, mix = concave(1), WORKLOAD.mix
    workload = describe("normal", rate_shape="constant").at_rate(0.6 * capacity(mix, node))
    question = Question(workload, node, horizon=60.0, seed=3)
    found = compare(question, ("node_work",), Replications(60))
    said = found.to_json()
    exact = said["discrete"]["metrics"]
    for key in ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el"):
        assert said["methods"]["node_work"]["metrics"][key] == pytest.approx(exact[key], rel=0.01)


def test_where_a_node_cycles_the_mean_of_the_runs_is_no_path_of_a_run():
    """Overloaded, bound by the budget, two lengths: one large run is nearer than the mean says."""
    asked = Question(describe(types="(40,30,0.12);(170,90,0.03)"), NODE, horizon=2000.0)
    small = compare(asked.scaled(100), ("lagrangian",), Replications(48, workers=1), metrics=False)
    solution = small.methods["lagrangian"].solution
    assert any(label.startswith("limit cycle") for label in solution.warnings)
    (said,) = small.to_json()["warnings"]
    assert "the mean is no path of a run" in said
    large = asked.scaled(3000)
    (run,) = compare(large, ("lagrangian",), Replications(1), metrics=False).methods.values()
    mean = small.methods["lagrangian"].nrmse["in_system"]
    assert mean > 3 * small.noise_floor["in_system"]  # no number of runs would mend it
    assert run.nrmse["in_system"] < 0.8 * mean  # a single run of a large node keeps the phase


@pytest.mark.parametrize("load", [0.8, 1.15])
def test_a_node_that_does_not_cycle_has_no_phase_to_lose(load):
    asked = Question(WORKLOAD, NODE, horizon=2000.0).scaled(10).at_load(load)
    found = compare(asked, ("lagrangian",), Replications(8, workers=1), metrics=False)
    assert found.warnings == ()


def test_arrivals_that_are_not_poisson_are_said_by_every_method():
    bursty = describe("normal", arrival_rate=0.1, burstiness=0.25)
    found = compare(
        Question(bursty, NODE, horizon=100.0), ("lagrangian", "node_work"), Replications(2)
    )
    methods = found.to_json()["methods"]
    assert any("burstiness" in label for label in methods["lagrangian"]["labels"])
    assert any("not Poisson" in label for label in methods["node_work"]["labels"])
