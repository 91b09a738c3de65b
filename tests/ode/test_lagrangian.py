from __future__ import annotations

from dataclasses import replace

import lagrangian_reference as reference
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lagrangian_cases import cases

from fluid import capacity
from ode import InitialState, solve
from ode.lagrangian import batch
from ode.lagrangian.layout import (
    AGE,
    R_COMPLETED,
    R_EMITTED,
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_START,
    R_SWAPPED,
    R_TOKENS,
    ROW_SIZE,
    RUNNING,
)
from ode.lagrangian.solve import march_from
from ode.lagrangian.workspace import Workspace
from serving import (
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    FluidServeError,
    RateProfile,
    RequestMix,
    SolveError,
)
from serving.compiled_memory import vector_at


def rows_of(profile, mix, instance, *, horizon, batches=1, record_latencies=False):
    workspace = Workspace(
        mix, instance, profile, horizon=horizon, end=horizon, batches_per_step=batches, rows=64,
        samples=4096 if record_latencies else 0,
    )  # fmt: skip
    return march_from(workspace, InitialState()).rows


@settings(max_examples=120, deadline=None)
@given(cases())
def test_equals_the_plain_reading(case):
    mix, instance, profile = case
    rows = rows_of(profile, mix, instance, horizon=45.0)
    plain = reference.march(profile, mix, instance, 45.0)
    steps = min(len(rows), len(plain), 25)
    columns = [R_START, R_RUNNING, R_SWAPPED, R_COMPLETED, R_MEMORY, R_TOKENS, R_EVICTED]
    np.testing.assert_allclose(
        rows[:steps, columns], plain[:steps][:, [0, 1, 2, 4, 5, 6, 7]], rtol=1e-6, atol=1e-6
    )
    memory, running = rows[:, R_MEMORY], rows[:, R_RUNNING]
    assert (memory + running <= instance.M_total * (1 + 1e-6)).all()
    assert (rows[:, R_TOKENS] <= instance.token_budget * (1 + 1e-9)).all()


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 4))
def test_cruising_takes_the_same_steps(case, batches):
    """Recording latencies takes the general kernel throughout, whatever binds."""
    mix, instance, profile = case
    if batches > 1:  # where the budget nearly binds within a step, both are approximations
        instance = replace(instance, B=None, M_total=10**6)
    cruised = rows_of(profile, mix, instance, horizon=45.0, batches=batches)
    general = rows_of(profile, mix, instance, horizon=45.0, batches=batches, record_latencies=True)
    shared = slice(R_EMITTED)  # only recording counts emitted tokens
    np.testing.assert_allclose(cruised[:, shared], general[:, shared], rtol=1e-7, atol=1e-7)


def test_the_cases_evict_and_bind(normal_mix):
    """The plain reading is compared where it matters: eviction, re-admission, a full budget."""
    burst = RateProfile.steps([0.0, 10.0], [30.0, 0.0], 200.0)
    for mode in ("swapping", "sacrifice"):
        instance = DecodeNode(mode=mode, M_total=8000, B=3000)
        rows = rows_of(burst, normal_mix, instance, horizon=200.0)
        plain = reference.march(burst, normal_mix, instance, 200.0)
        assert rows[-1, R_EVICTED] > 5
        assert rows[:, R_TOKENS].max() == pytest.approx(3000)
        same = min(len(rows), len(plain))
        assert same > 45
        np.testing.assert_allclose(rows[:same, R_COMPLETED], plain[:same, 4], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(rows[:same, R_EVICTED], plain[:same, 7], rtol=1e-6, atol=1e-5)


def test_equilibrium_of_one_class():
    """Model check 1: tau* = 2.5, B* = 1500, N* = 24.793 and, without second-order terms, 50."""
    mix = RequestMix.from_lengths([50], [20])
    instance = DecodeNode(M_total=10**6, B=None)
    flow = solve(RateProfile.constant(0.495868, 20000.0), mix, instance)
    assert flow("batch_duration", 15000.0) == pytest.approx(2.5, rel=1e-4)
    assert flow("batch_tokens", 15000.0) == pytest.approx(1500, rel=1e-4)
    assert flow("running", 15000.0) == pytest.approx(24.793, rel=1e-4)
    json = flow.metrics().to_json()
    assert json["mean_e2el"] == pytest.approx(50 + 1.25, rel=2e-3)
    assert json["mean_ttft"] == pytest.approx(2.5 * 1.5, rel=2e-3)
    assert json["mean_tpot"] == pytest.approx(2.5, rel=2e-3)


def test_latency_samples_account_for_every_request():
    mix = RequestMix.from_lengths(np.full(101, 20), np.arange(50, 151))
    for mode in ("swapping", "sacrifice"):
        profile = RateProfile.steps([0.0, 10.0], [30.0, 0.05], 400.0)
        flow = solve(profile, mix, DecodeNode(mode=mode, B=None))
        assert flow.totals["evictions"] > 0
        samples = flow.samples()
        assert samples.weight.sum() == pytest.approx(profile.total, rel=1e-9)
        assert flow.stats["unfinished"] == pytest.approx(0, abs=1e-6)
        assert (samples.ttft > 0).all()
        assert (samples.queue_delay > -1e-9).all()
        assert (samples.e2el >= samples.ttft - 1e-9).all()
        # Little's law: mean in_system * time = mean e2e * requests
        t = np.linspace(0, flow.totals["duration"], 200_001)
        area = np.trapezoid(flow("in_system", t), t)
        mean = float(samples.e2el @ samples.weight)
        assert area == pytest.approx(mean, rel=2e-3)


def test_several_batches_a_step_change_little(normal_mix):
    instance = DecodeNode()
    profile = RateProfile.steps([0, 1000, 2000], np.array([0.5, 1.5, 0.5]) * 0.1329, 3000.0)
    t = np.linspace(0, 3000, 1000)
    fine = solve(profile, normal_mix, instance, batches_per_step=1)
    coarse = solve(profile, normal_mix, instance, batches_per_step=2)
    difference = fine("in_system", t) - coarse("in_system", t)
    assert np.sqrt(np.mean(difference**2)) < 0.01 * fine("in_system", t).mean()
    for name in ("ttft", "e2el", "tpot"):
        one, two = fine.metrics().latencies[name], coarse.metrics().latencies[name]
        assert two.mean == pytest.approx(one.mean, rel=0.02)
        if name != "tpot":  # of a request of a few tokens, a step of two batches blurs the TPOT
            assert two.percentiles[95] == pytest.approx(one.percentiles[95], rel=0.02)


@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_scale_does_not_change_the_fluid(normal_mix, mode):
    profile = RateProfile.steps([0, 100], [3.0, 0.1], 300.0)
    one = solve(profile, normal_mix, DecodeNode(mode=mode))
    large = solve(profile.scaled(1000), normal_mix, DecodeNode(mode=mode).scaled(1000))
    t = np.linspace(0, 300, 500)
    for name in ("waiting", "running", "swapped", "completed"):
        np.testing.assert_allclose(large(name, t) / 1000, one(name, t), rtol=1e-6, atol=1e-6)


def test_two_token_cycle_of_sacrifice():
    """Model check 6: p = 2, D = 2, M = 140 saturated; the cycle loses 1/8 of the throughput."""
    mix = RequestMix.from_lengths([2], [2])
    node = DecodeNode(mode="sacrifice", M_total=140, B=None)
    backlog = InitialState(waiting=5000.0)
    idle = RateProfile.constant(0.0, 400.0)
    cycle = solve(idle, mix, node, initial=backlog, drain=False)
    rows = cycle.stats["batches"]
    per_batch = float(cycle("completed", 400.0)) / rows
    assert per_batch == pytest.approx(140 / 7 * 0.875, rel=0.02)
    level = InitialState(waiting=5000.0, running=np.array([[20.0, 1.0, 1.0], [20.0, 0.0, 0.0]]))
    steady = solve(idle, mix, node, initial=level, drain=False)
    early = float(steady("completed", steady("batch_duration", 0.0) * 6.5))
    assert early == pytest.approx(20 * 6, rel=0.1)


def test_a_trace_with_idle_gaps_is_followed(normal_mix):
    arrivals = np.array([0.0, 0.0, 5.0, 5000.0, 5001.0])
    profile = RateProfile.from_arrivals(arrivals)
    flow = solve(profile, normal_mix, DecodeNode())
    assert flow.totals["completed"] == pytest.approx(5, rel=1e-9)
    assert flow.totals["gpu_utilization"] < 0.1
    assert float(flow("in_system", 4000.0)) == pytest.approx(0, abs=1e-9)
    assert float(flow("in_system", 2.0)) == pytest.approx(2, rel=1e-6)


def test_nothing_runs_before_the_first_arrival(normal_mix):
    """A trace that begins later is the same run, later; the node is empty until then."""
    at = np.array([0.0, 0.0, 400.0, 400.0, 450.0])
    count = np.array([0.0, 5.0, 5.0, 9.0, 20.0])
    now = solve(RateProfile(at, count), normal_mix, DecodeNode())
    late = RateProfile(np.append(0.0, at + 50), np.append(0.0, count))
    later = solve(late, normal_mix, DecodeNode())
    quiet, t = np.linspace(0, 49.9, 20), np.linspace(1, 700, 200)
    for name in now.trajectory.outputs:
        assert later(name, quiet) == pytest.approx(0.0, abs=1e-12), name
        assert later(name, t + 50) == pytest.approx(now(name, t), abs=1e-9), name


def test_a_batch_without_duration_fails_with_a_reason(normal_mix):
    node = DecodeNode(batch_time=BatchTimeLaw.per_token(0.0, 0.0))
    with pytest.raises(SolveError, match="stalled"):
        solve(RateProfile.constant(1.0, 10.0), normal_mix, node)
    with pytest.raises(SolveError, match=r"step_limit.*shorten the horizon"):
        # batches are shorter than the longest that the node could make: known on the way only
        solve(RateProfile.constant(0.01, 150.0), normal_mix, DecodeNode(), max_steps=100)


def test_capacity_is_reached_and_not_exceeded(normal_mix):
    """Saturated by a backlog, the fluid completes B / W requests per batch."""
    instance = DecodeNode()
    flow = solve(RateProfile.constant(2.0, 3000.0), normal_mix, instance, drain=False)
    done = float(flow("completed", 3000.0) - flow("completed", 1000.0)) / 2000
    pure = 2000 / normal_mix.work / 3.0
    assert done == pytest.approx(pure, rel=0.01)
    assert done > capacity(normal_mix, instance)


@numba.njit
def priced(workspace, first, last):
    total = batch.price(workspace[0], first, last, 1.0)
    return total, vector_at(workspace[0].cost_at, last)[first:].copy()


@numba.njit
def executed(workspace, row):
    batch.execute(workspace[0], 1.0, row)


def test_a_total_above_the_budget_by_rounding_only():
    """The prefix must not run past the end of RUNNING where the sum in order stays within B."""
    mix = RequestMix.from_lengths([3, 7], [300, 500])
    profile = RateProfile.constant(0.0, 1.0)
    ages = np.arange(41.0)[::-1]
    for random in map(np.random.default_rng, range(100)):
        present = np.column_stack([random.uniform(0.1, 3.0, 41), ages, ages])
        workspace = Workspace(mix, DecodeNode(M_total=10**6, B=None), profile, horizon=1.0)
        workspace.seed(InitialState(running=present))
        first, last = (int(workspace.queues[0][name]) for name in ("head", "tail"))
        total, cost = priced(workspace.record, first, last)
        budget = float(np.cumsum(cost)[-1])
        if total > budget:
            break
    else:
        pytest.fail("no sum in another order was larger than the sum in order")
    workspace.record["B"], row = budget, np.zeros(ROW_SIZE)
    workspace.record["running"] *= 1 + 1e-9  # the total of the state is not the sum either
    executed(workspace.record, row)
    assert (workspace.queues[0]["head"], workspace.queues[0]["tail"]) == (first, last)
    assert row[R_TOKENS] == budget
    assert (workspace.parcels(RUNNING)[AGE] == ages + 1).all()


def test_requests_present_at_the_start_have_no_latencies(normal_mix):
    """Nobody knows when they arrived; arrivals alone are measured."""
    there = InitialState(
        running=np.array([[5.0, 10.0, 10.0]]), swapped=np.array([[2.0, 5.0, 5.0]]), waiting=3.0
    )
    profile = RateProfile.constant(0.1, 200.0)
    flow = solve(profile, normal_mix, DecodeNode(), initial=there)
    assert flow.totals["completed"] == pytest.approx(30, rel=1e-9)
    assert flow.samples().weight.sum() == pytest.approx(23, rel=1e-9)


def test_what_cannot_be_resolved_is_refused(normal_mix):
    profile = RateProfile.constant(0.1, 200.0)
    with pytest.raises(ConfigError, match="batches_per_step': 5 is not allowed; allowed: 1 to"):
        solve(profile, normal_mix, DecodeNode(), batches_per_step=5)
    for horizon in (-1.0, float("nan"), float("inf")):
        with pytest.raises(FluidServeError, match="horizon"):
            solve(profile, normal_mix, DecodeNode(), horizon=horizon)


def test_a_mix_of_large_requests_is_labelled():
    large = RequestMix.from_lengths([3000], [200])
    labels = solve(RateProfile.constant(0.001, 100.0), large, DecodeNode()).labels
    assert any("exceeds B = 2000" in label for label in labels)
    assert any("32% of the memory" in label for label in labels)


@pytest.mark.parametrize("batches", [1, 2, 7])
def test_sparse_arrivals_start_at_once(batches):
    """After idling an arrival starts with the next batch, however many batches a step covers."""
    mix = RequestMix.from_lengths([50, 80], [300, 500])
    profile = RateProfile.from_arrivals(np.arange(20) * 3000.0)
    flow = solve(profile, mix, DecodeNode(), batches_per_step=batches)
    samples = flow.samples()
    assert samples.weight.sum() == pytest.approx(20, rel=1e-9)
    assert samples.ttft.min() > 0
    assert samples.ttft.max() == pytest.approx(1 + 0.001 * 66, rel=5e-3)
    assert (samples.e2el >= 300).all()
    assert (samples.e2el < 1000).all()
