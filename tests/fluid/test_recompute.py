"""What preemptions compute again, against a plain walk of the memory and against the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import discrete
from fluid import capacity, saturation
from fluid.prompt_server.life import life
from fluid.prompt_server.recompute import recomputed_tokens
from fluid.prompt_server.saturation import step_time
from serving import BatchTimeLaw, RequestMix, VllmV0, VllmV1, reading_of
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.017, d_decode=3.9e-5, d_prefill=1e-4, d_kv=1.5e-7)
MIX = describe("normal").mix


def lognormal(seed=3, atoms=3000):
    """Return lengths as those of a chat: prompts of 250 tokens, answers of 330, both spread out."""
    rng = np.random.default_rng(seed)
    p, d = rng.lognormal(5.0, 1.0, atoms), rng.lognormal(5.3, 1.0, atoms)
    return RequestMix.from_lengths(np.clip(p, 4, 3000).round(), np.clip(d, 4, 3000).round())


def node(mix, requests, **settings):
    """Return a server whose memory holds about so many requests, and whose other limits do not."""
    held = mix.probability @ (mix.prefill * mix.decode + mix.decode**2 / 2) / mix.mean_decode
    return VllmV1(
        batch_time=LAW, num_gpu_blocks=int(requests * held / 16) + 2, max_num_seqs=100_000,
        max_num_batched_tokens=200_000, **settings,
    )  # fmt: skip


def walked(mix, server, entering, steps=200_000):
    """Return the tokens that a step computes again, and their standard error, step by step."""
    rng = np.random.default_rng(8)
    growth = entering * life(mix, server).decodes
    held = np.ceil((mix.prefill + mix.decode) / server.block_size) * server.block_size
    ends = rng.poisson(entering, steps)
    sizes = held[rng.choice(held.size, ends.sum(), p=mix.probability)]
    back = np.bincount(np.repeat(np.arange(steps), ends), sizes, steps)
    weight = mix.probability * mix.prefill
    room = rng.choice(mix.prefill, steps, p=weight / weight.sum()) * rng.random(steps)
    room = room * server.keeps_prefixes + server.reserve
    lacking, lost = 0.0, np.zeros(steps)
    cushion = room[0]
    for t in range(steps):
        before, lacking = lacking, lacking + growth - back[t]
        if lacking <= 0:
            lacking, cushion = 0.0, room[t]
            continue
        lost[t] = max(max(lacking - cushion, 0.0) - max(before - cushion, 0.0), 0.0)
    batches = lost.reshape(50, -1).mean(axis=1)
    return batches.mean(), batches.std(ddof=1) / np.sqrt(50)


@pytest.mark.parametrize("settings", [{}, {"enable_prefix_caching": False}, {"watermark": 0.02}])
@pytest.mark.parametrize("requests", [30, 200])
def test_the_walk_of_the_memory(requests, settings):
    mix = lognormal()
    server = reading_of(node(mix, requests, **settings)).node
    entering = saturation(mix, server).entering
    found = recomputed_tokens(mix, server, entering)
    mean, error = walked(mix, server, entering)
    assert 0 < error < 0.1 * mean
    assert found == pytest.approx(mean, rel=0.02, abs=3 * error)


def test_nobody_computes_again_where_memory_is_not_full_or_swaps():
    seats = replace(node(MIX, 100), max_num_seqs=8)
    assert saturation(MIX, seats).binds == "max_num_seqs"
    assert saturation(MIX, seats).recomputed == 0
    swapping = VllmV0(batch_time=LAW, num_gpu_blocks=300, preemption_mode="swap")
    assert saturation(MIX, swapping).recomputed == 0
    assert saturation(MIX, replace(swapping, preemption_mode="recompute")).recomputed > 0


def test_a_large_server_computes_nothing_again():
    small, large = (saturation(MIX, node(MIX, n)) for n in (50, 5000))
    assert small.recomputed / small.entering > 5
    assert large.recomputed / large.entering < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requests", "caches", "before"), [(80, False, 0.12), (80, True, 0.08), (300, True, 0.07)]
)
def test_the_capacity_of_the_engine(requests, caches, before):
    mix = lognormal()
    server = node(mix, requests, enable_prefix_caching=caches)
    full, reading = saturation(mix, server), reading_of(server).node
    table = Workload(mix, 1.6 * full.throughput).sample(7, num_requests=9000)
    engine = discrete.engine_for(table, server, record_batches=False)
    end = table.arrival_time[-1]
    engine.advance(until=end)
    run = engine.run()
    done = run.requests["completion_time"]
    done = done[np.isfinite(done)]
    measured = np.mean((done > 0.3 * end) & (done <= end)) * done.size / (0.7 * end)
    assert capacity(mix, server) == pytest.approx(measured, rel=0.04)
    again = run.metrics().totals["recompute_waste"] / done.size
    assert full.recomputed / full.entering == pytest.approx(again, rel=0.25)
    without = full.entering / float(step_time(life(mix, reading), reading, full.entering))
    assert without > measured * (1 + before)
