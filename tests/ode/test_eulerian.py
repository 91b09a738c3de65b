"""The Eulerian solvers against closed forms, each other, the iteration clock and conservation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import capacity
from ode import InitialState, solve
from ode.eulerian.march_jax import CHUNK, _chunk
from serving import (
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    RateProfile,
    RequestMix,
    SolveError,
    UnsupportedError,
)

CHECK_1 = RequestMix.from_lengths([50], [20])
ROOMY = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=10**6, B=None)


def normal_mix():
    p_short, d_short = np.meshgrid(np.arange(10, 61), np.arange(10, 41))
    p_long, d_long = np.meshgrid(np.arange(150, 201), np.arange(80, 101))
    weight = np.r_[
        np.full(p_short.size, 0.8 / p_short.size), np.full(p_long.size, 0.2 / p_long.size)
    ]
    return RequestMix.from_lengths(
        np.r_[p_short.ravel(), p_long.ravel()],
        np.r_[d_short.ravel(), d_long.ravel()],
        weight,
        np.r_[np.zeros(p_short.size), np.ones(p_long.size)],
    )


def geometric_and_fixed():
    """Check 3: 70 % p = 30 with geometric D of mean 15, 30 % p = 200 with D = 40."""
    d = np.arange(1, 400)
    mass = 0.7 * (1 / 15) * (14 / 15) ** (d - 1)
    return RequestMix.from_lengths(
        np.r_[np.full(d.size, 30), 200], np.r_[d, 40], np.r_[mass, 0.3], np.r_[d * 0, 1]
    )


def distance(one, other, horizon, name="in_system"):
    """RMS difference over the time mean of in_system."""
    t = np.linspace(0, horizon, 1000)
    return np.sqrt(np.mean((one(name, t) - other(name, t)) ** 2)) / other("in_system", t).mean()


@pytest.mark.parametrize("transport", ["superbee", "upwind"])
def test_check_1_equilibrium_is_the_closed_form(transport):
    profile = RateProfile.constant(0.495868, 3000.0)
    scan = _chunk(ROOMY.mode, transport, False)
    compiled = scan._cache_size()
    flow = solve(profile, CHECK_1, ROOMY, method="eulerian_jax", drain=False, transport=transport)
    assert flow.trajectory.time.size > 2 * CHUNK and scan._cache_size() <= compiled + 1
    assert flow("batch_duration", 2900.0) == pytest.approx(2.5, rel=1e-4)
    assert flow("batch_tokens", 2900.0) == pytest.approx(1500, rel=1e-4)
    assert flow("running", 2900.0) == pytest.approx(24.793, rel=1e-4)
    assert flow("waiting", 2900.0) == pytest.approx(0.495868 * 2.5 / 2, rel=1e-4)


def test_check_3_two_classes():
    law = BatchTimeLaw.per_token(1.0, 2e-4)
    node = DecodeNode(law, M_total=10**6, B=None)
    profile = RateProfile.constant(1.282668, 6000.0)
    flow = solve(profile, geometric_and_fixed(), node, method="eulerian_jax", drain=False)
    assert flow("batch_duration", 5900.0) == pytest.approx(5.0, rel=1e-3)
    assert flow("batch_tokens", 5900.0) == pytest.approx(20000, rel=1e-3)
    assert flow("running", 5900.0) == pytest.approx(67.340 + 76.960, rel=1e-3)


def test_latencies_at_equilibrium():
    """Wait tau/2 spread over a batch, first token one batch later, D batches in all."""
    profile = RateProfile.constant(0.495868, 6000.0)
    initial = InitialState(
        waiting=0.62, running=np.column_stack([np.full(20, 1.23967), np.arange(20), np.arange(20)])
    )
    flow = solve(profile, CHECK_1, ROOMY, method="eulerian_jax", initial=initial)
    metrics = flow.metrics()
    assert metrics.latencies["queue_delay"].mean == pytest.approx(1.25, rel=5e-3)
    assert metrics.latencies["ttft"].mean == pytest.approx(3.75, rel=5e-3)
    assert metrics.latencies["ttft"].percentiles[99] == pytest.approx(2.5 * 1.99, rel=5e-3)
    assert metrics.latencies["tpot"].mean == pytest.approx(2.5, rel=5e-3)
    assert metrics.latencies["e2el"].mean == pytest.approx(51.25, rel=5e-3)
    assert flow.samples().weight.sum() == pytest.approx(profile.total + 0.62)


def test_split_batch_time_law():
    """tau = d_0 + d_decode n + d_kv context: the closed form of its own fixed point."""
    law = BatchTimeLaw(d_0=1.0, d_decode=0.02, d_kv=5e-4)
    node = DecodeNode(law, M_total=10**6, B=None)
    rate = 0.3
    flow = solve(
        RateProfile.constant(rate, 2000.0), CHECK_1, node, method="eulerian_jax", drain=False
    )
    per_time = 5e-4 * CHECK_1.work + (0.02 - 5e-4) * 20
    assert flow("batch_duration", 1900.0) == pytest.approx(1 / (1 - rate * per_time), rel=1e-4)


@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_saturated_throughput_is_the_capacity(mode):
    """A backlog that never ends: M W-weighted tokens leave at C / (W tau) (no straddle)."""
    mix = RequestMix.from_lengths([20, 20, 20], [10, 25, 60])
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), mode=mode, M_total=10000, B=4000)
    initial = InitialState(waiting=9000.0)
    profile = RateProfile.constant(1e-9, 8000.0)
    flow = solve(profile, mix, node, method="eulerian_jax", initial=initial, drain=False)
    done = flow("completed", [2000.0, 8000.0])
    expected = 4000 / (mix.work * (1 + 1e-3 * 4000))
    assert np.diff(done)[0] / 6000 == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("budget", [2000, None])
def test_agrees_with_the_iteration_clock(budget):
    mix, node = normal_mix(), DecodeNode(B=budget)
    rate = capacity(mix, node)
    for profile in (
        RateProfile.constant(0.8 * rate, 3000.0),
        RateProfile.steps([0, 1000, 2000], [0.5 * rate, 1.5 * rate, 0.5 * rate], 3000.0),
        RateProfile.steps([0, 600], [2.5 * rate, 0.2 * rate], 3000.0),
    ):
        reference = solve(profile, mix, node, method="lagrangian")
        flow = solve(profile, mix, node, method="eulerian_jax")
        for name in ("in_system", "running"):
            assert distance(flow, reference, 3000.0, name) < 0.004
        mine, theirs = flow.metrics(), reference.metrics()
        for name in ("ttft", "tpot", "e2el"):
            assert mine.latencies[name].mean == pytest.approx(theirs.latencies[name].mean, rel=0.01)
        assert mine.completed == pytest.approx(theirs.completed, rel=1e-3)


def test_upwind_stages_spread_cohorts_more_than_limited_ones():
    """The plain stage ODE differs from the iteration clock by diffusion, the limited does not."""
    mix, node = normal_mix(), DecodeNode(B=None)
    rate = capacity(mix, node)
    profile = RateProfile.steps([0, 500, 1000], [0.5 * rate, 1.5 * rate, 0.5 * rate], 1500.0)
    reference = solve(profile, mix, node, method="lagrangian")
    plain = solve(profile, mix, node, method="eulerian_jax", transport="upwind")
    limited = solve(profile, mix, node, method="eulerian_jax")
    assert distance(plain, reference, 1500.0) < 0.02
    assert distance(limited, reference, 1500.0) < 0.2 * distance(plain, reference, 1500.0)


def test_back_ends_agree_and_steps_converge():
    mix, node = normal_mix(), DecodeNode(B=2000)
    rate = capacity(mix, node)
    profile = RateProfile.steps([0, 150, 300], [0.5 * rate, 1.8 * rate, 0.3 * rate], 450.0)
    exact = solve(profile, mix, node, method="eulerian_diffrax")
    assert distance(solve(profile, mix, node, method="eulerian_scipy"), exact, 450.0) < 1e-3
    errors = [
        distance(solve(profile, mix, node, method="eulerian_jax", step=step), exact, 450.0)
        for step in (1.0, 0.25)
    ]
    assert errors[0] < 1e-3
    assert errors[1] < 2e-4


def test_fourth_order_where_the_equations_are_smooth():
    """Upwind stages, no limit binding, one segment: halving the step divides the error by ~16."""
    profile = RateProfile.constant(0.495868, 30.0)
    mix = RequestMix.from_lengths(np.full(30, 50), np.arange(5, 35))

    def completed(step):
        flow = solve(
            profile, mix, ROOMY, method="eulerian_jax", drain=False, transport="upwind", step=step
        )
        return float(flow("completed", 30.0))

    exact = completed(1 / 64)
    errors = [abs(completed(step) - exact) for step in (1.0, 0.5, 0.25)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_back_ends_agree_in_a_burst_that_evicts(mode):
    mix = RequestMix.from_lengths(np.full(26, 20), np.arange(10, 36))
    node = DecodeNode(mode=mode, M_total=2000, B=None)
    profile = RateProfile.constant(30.0, 10.0)
    exact = solve(profile, mix, node, method="eulerian_diffrax")
    end = float(exact.trajectory.time[-1])
    assert exact.totals["evictions"] > 5
    assert distance(solve(profile, mix, node, method="eulerian_scipy"), exact, end) < 1e-3
    assert distance(solve(profile, mix, node, method="eulerian_jax"), exact, end) < 1e-3


@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
@pytest.mark.parametrize("budget", [2000, None])
def test_burst_agrees_with_the_iteration_clock(mode, budget):
    mix = RequestMix.from_lengths(np.full(101, 20), np.arange(50, 151))
    node = DecodeNode(mode=mode, B=budget)
    profile = RateProfile.constant(150.0, 10.0)
    reference = solve(profile, mix, node, method="lagrangian")
    flow = solve(profile, mix, node, method="eulerian_jax")
    end = float(flow.trajectory.time[-1])
    assert distance(flow, reference, end) < 0.01
    assert flow.totals["evictions"] > 100
    little = np.trapezoid(flow("in_system", flow.trajectory.time), flow.trajectory.time) / 1500
    assert flow.metrics().latencies["e2el"].mean == pytest.approx(little, rel=0.02)


def test_swapped_stays_non_negative_at_an_admission_threshold():
    mix = RequestMix.from_lengths([1, 1, 5], [1, 2, 24], request_class=[0, 0, 0])
    law = BatchTimeLaw.per_token(1.0, 0.0030104995936892105)
    node = DecodeNode(law, M_total=200, B=1000, admission_threshold=0.8)
    profile = RateProfile.constant(2.0 * capacity(mix, node), 60.0)
    flow = solve(profile, mix, node, method="eulerian_jax", classes=2)
    assert flow.trajectory.outputs["swapped"].min() >= -1e-6 * profile.total


def test_no_inter_token_latencies_where_the_budget_holds_requests_up():
    mix = RequestMix.from_lengths(np.full(101, 20), np.arange(50, 151))
    profile = RateProfile.constant(30.0, 2.0)
    held_up = solve(profile, mix, DecodeNode(B=600), method="eulerian_jax").samples()
    assert held_up.itl.size == held_up.itl_weight.size == 0
    free = solve(profile, mix, DecodeNode(B=None), method="eulerian_jax").samples()
    assert free.itl_weight.sum() == pytest.approx(60 * 99, rel=1e-3)


def test_simultaneous_arrivals_are_a_jump():
    profile = RateProfile(np.array([0.0, 50.0, 50.0, 400.0]), np.array([0.0, 0.0, 30.0, 30.0]))
    flow = solve(profile, CHECK_1, ROOMY, method="eulerian_jax")
    assert flow("in_system", 49.999) == pytest.approx(0, abs=1e-9)
    assert flow("in_system", 50.0) == pytest.approx(30)
    assert flow.totals["completed"] == pytest.approx(30, rel=1e-3)


def test_trace_with_many_arrivals_keeps_its_mass():
    rng = np.random.default_rng(0)
    arrivals = np.sort(rng.uniform(0, 2000, 3000))
    profile = RateProfile.from_arrivals(arrivals)
    flow = solve(profile, CHECK_1, DecodeNode(B=None), method="eulerian_jax")
    assert flow.totals["completed"] == pytest.approx(3000, rel=1e-3)


@pytest.mark.parametrize("method", ["eulerian_jax", "eulerian_scipy"])
def test_initial_state_drains(method):
    initial = InitialState(
        waiting=7.0,
        running=np.array([[3.0, 12.0, 12.0], [5.0, 4.5, 4.5]]),
        swapped=np.array([[2.0, 6.0, 6.0]]),
    )
    flow = solve(RateProfile.constant(1e-9, 10.0), CHECK_1, ROOMY, method=method, initial=initial)
    assert flow("in_system", 0.0) == pytest.approx(17)
    assert flow("running", 0.0) == pytest.approx(8)
    assert flow("swapped", 0.0) == pytest.approx(2)
    assert flow.totals["completed"] == pytest.approx(17, rel=1e-3)
    tokens = 7 * 20 + 3 * 8 + 5 * 15.5 + 2 * 14
    assert flow.totals["output_tokens"] == pytest.approx(tokens, rel=1e-3)


def test_sacrificed_requests_keep_their_hidden_length():
    """In the initial state: a request known to exceed 12 tokens restarts as a long one."""
    mix = RequestMix.from_lengths([50, 50], [10, 20])
    initial = InitialState(running=np.array([[4.0, 0.0, 12.0]]))
    node = DecodeNode(mode="sacrifice", M_total=10**6, B=None)
    flow = solve(RateProfile.constant(1e-9, 1.0), mix, node, method="eulerian_jax", initial=initial)
    assert flow.totals["output_tokens"] == pytest.approx(4 * 20, rel=1e-3)


def test_totals_of_an_undisturbed_run():
    profile = RateProfile.constant(0.495868, 500.0)
    flow = solve(profile, CHECK_1, ROOMY, method="eulerian_jax")
    totals = flow.totals
    assert totals["completed"] == pytest.approx(profile.total, rel=1e-3)
    assert totals["output_tokens"] == pytest.approx(20 * profile.total, rel=1e-3)
    assert totals["evictions"] == totals["recompute_waste"] == 0
    work = totals["processing_efficiency"] * 10**6 * flow.trajectory.time.size
    assert work > 0 and 0 < totals["memory_utilization"] < 0.01
    assert 0.9 < totals["gpu_utilization"] <= 1


def test_failures_say_what_happened():
    profile = RateProfile.constant(0.4, 2000.0)
    with pytest.raises(SolveError, match=r"eulerian_jax failed \(step_limit\): t = "):
        solve(profile, CHECK_1, ROOMY, method="eulerian_jax", max_steps=200)
    with pytest.raises(SolveError, match=r"eulerian_scipy failed \(step_limit\)"):
        solve(profile, CHECK_1, ROOMY, method="eulerian_scipy", max_steps=50)
    with pytest.raises(SolveError, match="no request of this mix is longer than 25"):
        initial = InitialState(running=np.array([[1.0, 25.0, 25.0]]))
        solve(profile, CHECK_1, ROOMY, method="eulerian_jax", initial=initial)
    for step in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"step.*allowed: a number > 0 and <= 1"):
            solve(profile, CHECK_1, ROOMY, method="eulerian_jax", step=step)
    with pytest.raises(UnsupportedError, match="step is no option of eulerian_scipy"):
        solve(profile, CHECK_1, ROOMY, method="eulerian_scipy", step=0.5)


def test_not_finite_is_reported(monkeypatch):
    import ode.eulerian.solve as eulerian

    original = eulerian.eulerian_problem

    def poisoned(*arguments):
        problem = original(*arguments)
        problem.values["d_kv"] = float("nan")
        return problem

    monkeypatch.setattr(eulerian, "eulerian_problem", poisoned)
    for method in ("eulerian_jax", "eulerian_scipy"):
        with pytest.raises(SolveError, match="not_finite"):
            solve(RateProfile.constant(0.4, 50.0), CHECK_1, ROOMY, method=method)


def test_solving_leaves_jax_in_single_precision():
    import jax.numpy as jnp

    solve(RateProfile.constant(0.4, 20.0), CHECK_1, ROOMY, method="eulerian_jax")
    assert jnp.ones(1).dtype == jnp.float32


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_random_mixes_conserve_and_stay_non_negative(data):
    """Stages padded to 24 so that one compiled shape serves every case."""
    mode = data.draw(st.sampled_from(["swapping", "sacrifice"]))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(1, 40), st.integers(1, 23)), min_size=2, max_size=2)
    )
    mix = RequestMix.from_lengths(
        [*(p for p, _ in pairs), 5], [*(d for _, d in pairs), 24], request_class=[0, 0, 0]
    )
    node = DecodeNode(
        BatchTimeLaw.per_token(data.draw(st.floats(0.1, 2)), data.draw(st.floats(1e-4, 1e-2))),
        mode=mode,
        M_total=data.draw(st.integers(200, 2000)),
        B=data.draw(st.sampled_from([150, 1000, None])),
        admission_threshold=data.draw(st.sampled_from([1.0, 0.8])),
    )
    load = data.draw(st.floats(0.2, 2.5))
    profile = RateProfile.constant(load * capacity(mix, node), 60 * node.batch_time.d_0)
    flow = solve(profile, mix, node, method="eulerian_jax", classes=2)
    outputs, time = flow.trajectory.outputs, flow.trajectory.time
    scale = max(1.0, profile.total)
    for name, values in outputs.items():
        assert values.min() >= -1e-6 * scale * (100 if name in ("memory", "batch_tokens") else 1)
    queues = outputs["waiting"] + outputs["running"] + outputs["swapped"]
    np.testing.assert_allclose(queues, outputs["in_system"], atol=1e-6 * scale)
    arrived = profile.count(np.minimum(time, profile.horizon))
    balance = arrived - outputs["completed"] - outputs["in_system"]
    np.testing.assert_allclose(balance, 0, atol=1e-6 * scale)
    assert (np.diff(outputs["completed"]) >= -1e-9 * scale).all()
    assert (outputs["memory"] + outputs["running"]).max() <= node.M_total * (1 + 1e-3)
    if node.B is not None:
        assert outputs["batch_tokens"].max() <= node.B + 1e-6
    assert flow.totals["completed"] == pytest.approx(profile.total, rel=2e-3)
