"""The predicted hit share beside that of the engine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import discrete
from serving import BatchTimeLaw, ConfigError, RequestTable, UnsupportedError, VllmV1
from studies.prefix_cache import PrefixCache
from workload import (
    Conversations,
    LengthDistribution,
    RequestClass,
    Workload,
    mix_of,
    read_trace,
)

LAW = BatchTimeLaw(d_0=0.0067, d_decode=1.5e-5, d_kv=4.65e-8, d_prefill=2.4e-5)
SERVER = VllmV1(batch_time=LAW, max_num_batched_tokens=8192)
TRACES = Path(os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[3] / "shared"))


def talk(prompt, answer, rate, requests, seed=1, **conversations) -> RequestTable:
    said = LengthDistribution.uniform(*prompt), LengthDistribution.uniform(*answer)
    talks = Conversations(mix_of([RequestClass("turn", 1.0, *said)]), **conversations)
    workload = Workload(talks.mix(), rate, conversations=talks)
    return workload.sample(np.random.SeedSequence(seed), num_requests=requests)


def chat(rate=12.0, requests=4000) -> RequestTable:
    return talk(
        (50, 250), (100, 300), rate, requests, turns=6, think_time=20.0, answer_token_time=0.01,
        system_prompts=4, system_prompt_length=1000,
    )  # fmt: skip


def documents(rate=2.5, requests=2000) -> RequestTable:
    return talk(
        (1000, 5000), (200, 400), rate, requests, turns=4, think_time=60.0, answer_token_time=0.02
    )


def run(requests: RequestTable, node: VllmV1) -> dict[str, float]:
    return discrete.simulate(requests, node, record_batches=False).totals()


SIZES = {
    "chat": (chat, (4000, 8000, 16_000, 60_000)),
    "documents": (documents, (14_000, 20_000, 40_000, 120_000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_hit_share_of_conversations_is_that_of_the_engine(name) -> None:
    draw, sizes = SIZES[name]
    requests = draw()
    cache = PrefixCache(requests)
    for blocks in sizes:
        node = replace(SERVER, num_gpu_blocks=blocks)
        found, point = run(requests, node), cache.on(node)
        assert point.hit_share == pytest.approx(found["prefix_cache_hit_rate"], abs=0.01)
        assert not point.is_overloaded
        # the waits that chance brings keep more in memory than the mean flow does
        assert 0.7 < point.held_share / found["memory_utilization"] < 1.1


@pytest.mark.slow
def test_hit_share_of_a_trace_is_that_of_the_engine() -> None:
    path = TRACES / "data/traces/mooncake_conversation.jsonl.gz"
    if not path.exists():
        pytest.skip("the published traces are not on this machine (FLUIDSERVE_SHARED)")
    requests = read_trace(path).requests.stretched(2.0)
    cache = PrefixCache(requests)
    for blocks in (27_844, 400_000):  # more in benchmarks/prefix_cache.py
        node = replace(SERVER, num_gpu_blocks=blocks, max_num_seqs=1024)
        found = run(requests, node)["prefix_cache_hit_rate"]
        assert cache.on(node).hit_share == pytest.approx(found, abs=0.01)


def test_load_says_whether_the_engine_keeps_up() -> None:
    """At its capacity the backlog of the engine begins to grow."""
    requests = documents(requests=800)
    node = replace(SERVER, num_gpu_blocks=12_000)
    limit = PrefixCache(requests).on(node)
    for factor, grows in ((0.8, False), (1.3, True)):
        table = requests.stretched(limit.load / factor)
        assert PrefixCache(table).on(node).is_overloaded is grows
        wait = discrete.simulate(table, node, record_batches=False).requests
        waited = wait["first_enter_running_time"] - wait["arrival_time"]
        late = float(np.mean(waited[-200:]))
        assert (late > 20.0) is grows, (factor, late)


def test_an_overloaded_server_is_told() -> None:
    requests = chat(rate=200.0, requests=500)
    point = PrefixCache(requests).on(replace(SERVER, num_gpu_blocks=1500))
    assert point.is_overloaded
    assert point.held_share > 0.9
    assert point.binds == "KV blocks"


def test_what_is_not_predicted_is_refused() -> None:
    requests = chat(requests=50)
    cache = PrefixCache(requests)
    with pytest.raises(UnsupportedError, match="there is no cache"):
        cache.on(replace(SERVER, enable_prefix_caching=False))
    with pytest.raises(UnsupportedError, match="prefill_schedule_interval"):
        cache.on(replace(SERVER, prefill_schedule_interval=3))
    with pytest.raises(UnsupportedError, match="overtake"):
        cache.on(replace(SERVER, scheduling_policy="priority"))
    with pytest.raises(ConfigError, match="largest request"):
        cache.on(SERVER, 3)
    with pytest.raises(ConfigError, match="block_size"):
        cache.on(replace(SERVER, block_size=32))
    gives_up = replace(requests, abort_time=requests.arrival_time + 1)
    with pytest.raises(UnsupportedError, match="give up"):
        PrefixCache(gives_up)
    plain = RequestTable.validated([0, 1], [10, 10], [1, 1])
    with pytest.raises(UnsupportedError, match="in common"):
        PrefixCache(plain)
