"""Closed forms of a server that computes its own prompts, against plain sums and the engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import discrete
from fluid import (
    capacity,
    equilibrium,
    fastest_batch,
    parameter_values,
    requests_that_fit,
    saturation,
    with_parameter,
    worst_cycle,
)
from fluid.prompt_server import life, saturation_of_many
from fluid.prompt_server.life import ALIVE, BLOCKS, CONTEXT, DECODES, SEATS
from serving import (
    BatchTimeLaw,
    ConfigError,
    RequestMix,
    SolveError,
    UnsupportedError,
    VllmV0,
    VllmV1,
    reading_of,
)
from studies import Question
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9)
SERVER = VllmV1(batch_time=LAW, num_gpu_blocks=4000, max_num_seqs=32)
MIX = describe("normal").mix


def _blocks(tokens, size):
    return math.ceil(tokens / size) * size


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=6),
    st.sampled_from([(False, False), (True, False), (True, True)]),
    st.sampled_from([1, 4, 16]),
    st.floats(0, 0.9),
)
@settings(max_examples=60, deadline=None)
def test_a_life_is_the_mean_of_lives(requests, ahead, size, hits):
    is_ahead, ends_unknown = ahead
    mix = RequestMix.from_lengths(*np.array(requests).T)
    server = VllmV1(block_size=size, async_scheduling=is_ahead, ignore_eos=not ends_unknown)
    node = replace(reading_of(server).node, hit_share=(hits,))
    found = life(mix, node)
    lanes = np.zeros_like(found.lanes)
    for p, d in requests:
        for age in range(lanes.shape[1]):
            known_to_end = d + is_ahead  # steps until the scheduler lets it go
            there = age < known_to_end
            computes = age < d or (there and ends_unknown)
            computed = p + (age if computes else d - 1)
            lanes[ALIVE, age] += age < d
            lanes[DECODES, age] += computes and age > 0
            lanes[CONTEXT, age] += (p + age) * computes
            lanes[SEATS, age] += there
            lanes[BLOCKS, age] += _blocks(computed, size) * there
    np.testing.assert_allclose(found.lanes, lanes / len(requests), rtol=1e-12, atol=1e-12)
    own = [(p * (1 - hits), p * hits) for p, _ in requests]
    assert found.prompt.tokens == pytest.approx(np.mean([new for new, _ in own]))
    pairs = np.mean([new * (known + (new + 1) / 2) for new, known in own])
    assert found.prompt.attention == pytest.approx(pairs)
    assert found.prompt.held == pytest.approx(np.mean([_blocks(p, size) for p, _ in requests]))


LIMITS = {
    "max_num_seqs": {},
    "max_num_batched_tokens": {"max_num_seqs": 128, "max_num_batched_tokens": 150},
    "KV blocks": {"max_num_seqs": 256, "num_gpu_blocks": 300},
}


@pytest.mark.parametrize("binds", LIMITS)
@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_capacity_is_what_a_full_server_completes(binds, is_ahead):
    node = replace(SERVER, **LIMITS[binds], async_scheduling=is_ahead).scaled(20)
    full = saturation(MIX, node)
    assert full.binds == binds
    asked = Question(Workload(MIX, rate=2 * full.throughput), node, num_requests=20_000)
    run = discrete.simulate(asked.requests, node, record_batches=False)
    done = np.sort(run.requests["completion_time"])
    first, last = done[8000], done[18_000]
    assert full.throughput == pytest.approx(10_000 / (last - first), rel=0.02)


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("load", [0.2, 0.6])
def test_a_large_server_is_at_its_equilibrium(load, is_ahead):
    node = replace(SERVER, async_scheduling=is_ahead).scaled(100)
    rate = load * capacity(MIX, node)
    found = equilibrium(MIX, node, rate)
    requests = Question(Workload(MIX, rate=rate), node, num_requests=20_000).requests
    samples = discrete.simulate(requests, node, record_batches=False).samples(8_000)
    assert found.load == pytest.approx(load)
    assert found.ttft == pytest.approx(samples.of("ttft")[0].mean(), rel=0.01)
    assert found.tpot == pytest.approx(samples.of("tpot")[0].mean(), rel=0.02)
    assert found.e2el == pytest.approx(samples.of("e2el")[0].mean(), rel=0.03)


def test_a_single_server_at_a_light_load_is_at_its_equilibrium():
    rate = 0.2 * capacity(MIX, SERVER)
    found = equilibrium(MIX, SERVER, rate)
    requests = Question(Workload(MIX, rate=rate), SERVER, num_requests=20_000).requests
    samples = discrete.simulate(requests, SERVER, record_batches=False).samples(1000)
    assert found.ttft == pytest.approx(samples.of("ttft")[0].mean(), rel=0.02)
    assert found.tpot == pytest.approx(samples.of("tpot")[0].mean(), rel=0.02)


def test_a_request_ends_a_step_later_for_a_scheduler_that_is_ahead():
    one = RequestMix.from_lengths([40], [1])
    ahead, known = SERVER, replace(SERVER, ignore_eos=True)
    behind = replace(SERVER, async_scheduling=False)
    held = [saturation(one, node).entering for node in (behind, known, ahead)]
    assert held == [32.0, 16.0, 16.0]
    decodes = [life(one, reading_of(node).node).decodes for node in (behind, known, ahead)]
    assert decodes == [0.0, 0.0, 1.0]


def test_hits_cost_no_time_and_hold_memory():
    node = reading_of(replace(SERVER, num_gpu_blocks=200)).node
    warm = replace(node, hit_share=(0.5,))
    assert saturation_of_many(MIX, warm).entering == saturation_of_many(MIX, node).entering
    # few requests are marched: shorter steps of the prompts change who meets whom
    marched = [saturation(MIX, each).entering for each in (warm, node)]
    assert marched[0] == pytest.approx(marched[1], rel=2e-3)
    assert capacity(MIX, warm) > capacity(MIX, node)
    by_class = RequestMix.from_lengths([40, 40], [9, 9], request_class=[0, 1])
    shares = replace(node, hit_share=(0.0, 1.0))
    assert life(by_class, shares).prompt.tokens == pytest.approx(20.0)


def test_prompts_apart_take_steps_of_their_own():
    v0 = VllmV0(batch_time=LAW, num_gpu_blocks=4000, max_num_seqs=32, watermark=0.0)
    mixed = replace(v0, enable_chunked_prefill=True)
    assert saturation(MIX, v0).entering == saturation(MIX, mixed).entering
    assert saturation(MIX, v0).batch_time > saturation(MIX, mixed).batch_time + 0.5 * LAW.d_0


def test_a_rate_beyond_capacity_has_no_equilibrium():
    with pytest.raises(SolveError, match=r"load is 1\.1, the backlog grows; max_num_seqs binds"):
        equilibrium(MIX, SERVER, 1.1 * capacity(MIX, SERVER))
    with pytest.raises(SolveError, match="not a number > 0"):
        equilibrium(MIX, SERVER, 0.0)


def test_a_law_that_bends_upwards_is_fastest_below_its_limit():
    law = BatchTimeLaw(
        d_0=0.01, d_decode_table=((0, 0.0), (16, 0.0), (32, 1.0)), d_decode=0, d_kv=0
    )
    node = replace(SERVER, batch_time=law)
    assert fastest_batch(MIX, node).throughput > 2 * saturation(MIX, node).throughput
    assert fastest_batch(MIX, SERVER) is saturation(MIX, SERVER)


def test_every_parameter_moves_what_it_says():
    rate = 0.5 * capacity(MIX, SERVER)
    values = parameter_values(MIX, SERVER, rate)
    assert values["max_num_seqs"] == 32 and values["kv_tokens"] == 3999 * 16
    assert requests_that_fit(MIX, SERVER) == 32
    for name, value in values.items():
        moved = with_parameter(MIX, SERVER, rate, name, 2 * value)
        again = parameter_values(moved.mix, moved.instance, moved.arrival_rate)
        assert again[name] == pytest.approx(moved.value, rel=1e-9), name
        same = {key for key in values if key != name and again[key] == pytest.approx(values[key])}
        assert same == values.keys() - {name}
    with pytest.raises(ConfigError, match=r"parameter.*B.*arrival_rate"):
        with_parameter(MIX, SERVER, rate, "B", 1.0)


def test_what_the_model_does_not_read_is_refused_in_words():
    for change in (
        {"num_speculative_tokens": 3}, {"pipeline_parallel_size": 2}, {"remote_prefill": True},
        {"prefill_schedule_interval": 4}, {"max_num_seqs": 4096},
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=f"engine vllm_v1 with.*{next(iter(change))}"):
            capacity(MIX, replace(SERVER, **change))
    with pytest.raises(UnsupportedError, match="no answer to 'worst_cycle' for the engine vllm_v1"):
        worst_cycle(MIX, SERVER)
