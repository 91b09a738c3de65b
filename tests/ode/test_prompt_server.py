"""The march of servers that compute their own prompts: a plain reading, the engine, what stays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import discrete
from ode import InitialState, methods_for, solve
from ode.lagrangian import layout as rows_of
from ode.prompt_server.workspace import Workspace
from serving import (
    BatchTimeLaw,
    ConfigError,
    FluidServeError,
    RateProfile,
    RequestMix,
    SolveError,
    UnsupportedError,
    VllmV0,
    VllmV1,
    reading_of,
)
from studies import Question, Replications, compare
from tests.references.server_march import ServerMarch
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9)
MIX = describe("normal").mix
SERVER = VllmV1(batch_time=LAW, num_gpu_blocks=2000)


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 15)), min_size=1, max_size=4, unique=True
    ),
    is_ahead=st.booleans(),
    ignore_eos=st.booleans(),
    cache=st.booleans(),
    blocks=st.integers(25, 120),
    seats=st.integers(3, 60),
    tokens=st.integers(60, 400),
    rate=st.floats(1, 20),
    gap=st.sampled_from([0.0, 0.3]),
    bent=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_the_march_is_the_plain_reading_of_its_rules(
    requests, is_ahead, ignore_eos, cache, blocks, seats, tokens, rate, gap, bent
):
    mix = RequestMix.from_lengths(*np.array(requests).T)
    law = BatchTimeLaw(
        d_0=1.0, d_decode=0.01, d_kv=1e-4, d_prefill=0.003, d_prefill_attention=1e-5,
        d_mixed_decode=0.02,
        d_prefill_table=((8.0, 1.0), (60.0, 1.2), (64.0, 1.5), (300.0, 3.0)) if bent else None,
    )  # fmt: skip
    server = VllmV1(
        batch_time=law, num_gpu_blocks=blocks, block_size=8, max_num_seqs=seats,
        max_num_batched_tokens=max(tokens, seats), async_scheduling=is_ahead,
        ignore_eos=ignore_eos, enable_prefix_caching=cache, cpu_gap=gap,
    )  # fmt: skip
    node = reading_of(server).node
    profile = RateProfile.constant(rate, 12.0)
    done = Workspace(mix, node, profile, horizon=12.0, end=math.inf).march()
    plain = ServerMarch(mix, node, profile.count, 12.0)
    expected = plain.run(len(done.rows))
    columns = [rows_of.R_START, rows_of.R_DURATION, rows_of.R_RUNNING, rows_of.R_MEMORY,
               rows_of.R_COMPLETED]  # fmt: skip
    np.testing.assert_allclose(done.rows[:, columns], expected, rtol=1e-6, atol=1e-6)
    assert done.state["evicted"] == pytest.approx(plain.evicted, rel=1e-5, abs=1e-5)
    assert done.state["wasted"] == pytest.approx(plain.wasted, rel=1e-5, abs=1e-4)


SERVERS = {
    "vllm_v1": SERVER,
    "vllm_v0": VllmV0(batch_time=LAW, num_gpu_blocks=2000),
    "vllm_v0 chunked": VllmV0(batch_time=LAW, num_gpu_blocks=2000, enable_chunked_prefill=True),
    "vllm_v0 swap": VllmV0(batch_time=LAW, num_gpu_blocks=2000, preemption_mode="swap"),
}
ALIKE = RequestMix.from_lengths(np.full(41, 100), np.arange(180, 221))


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("blocks", [2000, 300])
def test_who_comes_in_goes_out_and_no_limit_is_exceeded(name, blocks):
    node = replace(SERVERS[name], num_gpu_blocks=blocks, max_num_seqs=128)
    found = solve(RateProfile.constant(30.0, 10.0), ALIKE, node)
    metrics, path = found.metrics(), found.trajectory.outputs
    assert metrics.completed == pytest.approx(300.0, rel=1e-6)
    assert found.samples().weight.sum() == pytest.approx(300.0, rel=1e-4)
    assert metrics.totals["output_tokens"] == pytest.approx(300 * 200, rel=2e-3)
    assert path["running"].max() <= 128 * (1 + 1e-9)
    assert path["memory"].max() <= (16 * blocks) * (1 + 1e-9)
    assert (metrics.evictions > 1) == (blocks == 300)
    assert np.diff(path["completed"]).min() > -1e-9
    samples = found.samples()
    assert (samples.ttft > 0).all() and (samples.e2el >= samples.ttft - 1e-9).all()
    assert (samples.queue_delay <= samples.ttft + 1e-9).all()
    assert np.average(samples.itl, weights=samples.itl_weight) == pytest.approx(
        np.average(samples.e2el - samples.ttft, weights=samples.weight) / 199, rel=0.02
    )


LONG = RequestMix.from_lengths(
    *np.random.default_rng(1).integers((500, 20), (6000, 300), (300, 2)).T
)
CASES = {
    "moderate": (describe("normal"), 60.0, {}),
    "heavy with preemption": (Workload(ALIKE, rate=1.0), 40.0, {"num_gpu_blocks": 300}),
    "bursty": (describe("bursty").stretched(0.02), 40.0, {}),
    "long prompts": (Workload(LONG, rate=1.0), 6.0, {"num_gpu_blocks": 6000}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "name"),
    [
        *((case, "vllm_v1") for case in CASES),
        ("bursty", "vllm_v0"),
        ("long prompts", "vllm_v0"),
        ("heavy with preemption", "vllm_v0 chunked"),
        ("moderate", "vllm_v0 chunked"),
    ],
)
def test_a_large_server_is_the_fluid(name, case):
    source, rate, change = CASES[case]
    question = Question(source.at_rate(rate), replace(SERVERS[name], **change), horizon=6.0)
    found = compare(question.scaled(100), replications=Replications(6))
    result = found.methods["lagrangian"]
    assert result.nrmse["in_system"] < max(0.012, 1.5 * found.noise_floor["in_system"])
    for latency, most in {"ttft": 0.03, "tpot": 0.02, "e2el": 0.02}.items():
        ours, theirs = result.metrics.latencies[latency], found.discrete.metrics.latencies[latency]
        assert ours.mean == pytest.approx(theirs.mean, rel=most), latency


def test_a_server_of_moderate_size_is_near_the_fluid():
    question = Question(describe("normal", arrival_rate=60.0), SERVER, horizon=2.0).scaled(20)
    found = compare(question, replications=Replications(6))
    result = found.methods["lagrangian"]
    assert list(methods_for(SERVER)) == ["lagrangian"]
    assert list(found.methods) == ["lagrangian", "node_work"]
    assert result.nrmse["in_system"] < 0.03
    ours, theirs = result.metrics.latencies, found.discrete.metrics.latencies
    assert ours["ttft"].mean == pytest.approx(theirs["ttft"].mean, rel=0.02)
    assert ours["e2el"].mean == pytest.approx(theirs["e2el"].mean, rel=0.03)


def test_a_larger_server_is_the_same_but_for_a_factor():
    profile = RateProfile.constant(60.0, 5.0)
    small = solve(profile, MIX, SERVER.scaled(100))
    large = solve(profile.scaled(10.0), MIX, SERVER.scaled(1000))
    assert small.metrics().completed * 10 == pytest.approx(large.metrics().completed, rel=1e-9)


def test_a_queue_at_time_0_counts_as_arrivals():
    empty = RateProfile.constant(1e-9, 1.0)
    found = solve(empty, MIX, SERVER, initial=InitialState(waiting=50.0))
    burst = solve(RateProfile([0.0, 0.0, 1.0], [0.0, 50.0, 50.0]), MIX, SERVER)
    assert found.metrics().completed == pytest.approx(50.0)
    assert found.metrics().latencies["ttft"].mean == pytest.approx(
        burst.metrics().latencies["ttft"].mean, rel=1e-6
    )


def test_requests_of_a_trace_wait_from_their_own_arrival():
    """Between two arrivals of a trace its curve is flat: nobody has come before he came."""
    rows = Workload(ALIKE, rate=4.0).sample(seed=3, num_requests=200)
    found = solve(rows.rate_profile(), rows.mix(), SERVER).metrics().latencies
    seen = discrete.simulate(rows, SERVER).metrics().latencies
    assert found["ttft"].mean == pytest.approx(seen["ttft"].mean, rel=0.05)
    assert found["ttft"].percentiles[99] == pytest.approx(seen["ttft"].percentiles[99], rel=0.1)


def test_hits_make_prompts_shorter():
    node = reading_of(SERVER).node
    profile = RateProfile.constant(60.0, 5.0)
    cold, warm = (solve(profile, MIX, replace(node, hit_share=(share,))) for share in (0.0, 0.8))
    assert warm.metrics().latencies["ttft"].mean < cold.metrics().latencies["ttft"].mean
    assert warm.metrics().totals["prefix_cache_hit_rate"] == pytest.approx(0.8)
    assert any("prefix cache" in label for label in warm.labels) and not cold.labels


def test_what_is_not_modelled_is_labelled_or_refused():
    profile = RateProfile.constant(1.0, 1.0)
    priority = replace(SERVER, scheduling_policy="priority")
    with pytest.raises(UnsupportedError, match="scheduling_policy 'priority' is not modelled"):
        solve(profile, MIX, priority)
    assert "solved as fcfs" in solve(profile, MIX, priority, approximate=True).labels[0]
    with pytest.raises(UnsupportedError, match="eulerian_jax does not solve the engine vllm_v1"):
        solve(profile, MIX, SERVER, method="eulerian_jax")
    with pytest.raises(UnsupportedError, match="batches_per_step is no option"):
        solve(profile, MIX, SERVER, batches_per_step=2)
    with pytest.raises(UnsupportedError, match="not with requests that run"):
        solve(profile, MIX, SERVER, initial=InitialState(running=np.array([[1.0, 2.0, 2.0]])))
    with pytest.raises(FluidServeError, match="horizon: -1"):
        solve(profile, MIX, SERVER, horizon=-1.0)
    with pytest.raises(ConfigError, match=r"horizon.*which 5 steps reach"):
        solve(RateProfile.constant(1.0, 1e4), MIX, SERVER, max_steps=5)
    with pytest.raises(SolveError, match="step_limit"):
        solve(profile, MIX, SERVER, max_steps=5)
    with pytest.raises(SolveError, match="stalled"):
        solve(profile, MIX, replace(SERVER, batch_time=BatchTimeLaw.per_token(0.0, 0.0)))
    long = RequestMix.from_lengths([5000], [10])
    assert "takes several steps" in solve(profile, long, SERVER).labels[0]
