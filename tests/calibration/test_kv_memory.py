"""Estimated KV capacities: against servers, against vLLM's logs, and against plain arithmetic."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.profiles import (
    Release,
    Server,
    ServerMemory,
    find,
    gpus,
    kv_memory,
    models,
    server_memory,
)
from calibration.profiles.kv_memory import GIB, activation_peak, captured_graphs
from calibration.profiles.server import version_numbers
from serving import ConfigError, FluidServeError

NOTHING = ServerMemory(
    releases=(Release(since="0", process=0, logits=1e-9),), group=0, most_requests=1,
    error={"gib": 0.5}, source="", date="",
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
SERVER = Server("0.15", 0.9, 2048, 128)

RUNS = [
    ("Llama-2-7b", 1, Server("0.15", 0.9, 2048, 128), 7462),
    ("Llama-2-70b", 4, Server("0.15", 0.9, 2048, 128), 31356),
    ("Mixtral-8x7B-v0.1", 2, Server("0.15", 0.9, 2048, 128), 27510),
    ("CodeLlama-34b", 2, Server("0.15", 0.9, 2048, 128), 26602),
    ("CodeLlama-34b", 1, Server("0.11", 0.9, 64, 32), 2790),
    ("CodeLlama-34b", 1, Server("0.11", 0.9, 4096, 256), 2537),
    ("Llama-2-7b", 1, Server("0.11", 0.9, 4096, 256), 7438),
]
"""Servers on H100 of the shared data, and the blocks that they logged."""


def memory(name: str, card: str, tp: int, server: Server):
    return kv_memory(models()[find(name, card, tp).model], gpus()[card], tp, server,
                     server_memory())  # fmt: skip


@pytest.mark.parametrize(("name", "tp", "server", "blocks"), RUNS)
def test_blocks_are_within_3_percent_of_what_servers_logged(name, tp, server, blocks):
    found = memory(name, "H100", tp, server)
    assert found.blocks == pytest.approx(blocks, rel=0.03)
    assert abs(found.blocks / blocks - 1) <= found.relative_error
    assert found.blocks == pytest.approx(blocks, rel=0.002)  # today's error is 0.15 % at worst


def test_the_error_that_is_said_is_the_worst_of_servers_that_set_nothing():
    error = server_memory().error
    assert error["worst_of_runs"] < 0.03 < error["worst"] < 0.05 and error["servers"] >= 13
    found = memory("Llama-3.1-8B", "H100", 1, SERVER)
    assert found.relative_error == pytest.approx(error["gib"] / found.kv, rel=1e-3)


def test_the_peak_of_layers_is_what_vllm_logged():
    """Two start-up logs that set no size: Qwen2.5-1.5B on a T4, and LLaVA's Mistral-7B on an H100.

    The peak of the second, 1.97 GiB, has the encoded images as well.
    """
    rules = server_memory().rules(version_numbers("0.7.3"))
    qwen = models()["Qwen/Qwen2.5-1.5B"]
    peak = activation_peak(qwen, 1, Server("0.7.3", 0.5, 32768, 256), rules)
    assert peak == pytest.approx(2.02, abs=0.01)
    rules = server_memory().rules(version_numbers("0.10.2"))
    mistral = models()["mistralai/Mistral-7B-v0.1"]
    peak = activation_peak(mistral, 1, Server("0.10.2", 0.9, 16384, 1024), rules)
    assert 1.97 - 0.2 < peak < 1.97


@given(
    tp=st.sampled_from([1, 2, 4]), share=st.floats(0.5, 1), tokens=st.integers(1, 16384),
    requests=st.integers(1, 1024), size=st.sampled_from([8, 16, 32]),
)  # fmt: skip
def test_without_fixed_sizes_the_blocks_are_plain_arithmetic(tp, share, tokens, requests, size):
    shape, gpu = models()["meta-llama/Llama-3.1-8B"], gpus()["H100"]
    server = Server("0.33", share, tokens, requests, size)
    found = kv_memory(shape, gpu, tp, server, NOTHING)
    layer = tokens * 2 * (4 * 4096 + 3 * 14336 / tp)
    left = share * gpu.memory * 2**30 - 2 * 8.03e9 / tp - layer
    block = size * 2 * 32 * 8 / tp * 128 * 2
    assert (
        found.blocks == pytest.approx(left / block, abs=1 + 1e-9) and found.blocks <= left / block
    )
    assert found.tokens == size * found.blocks
    assert found.kv == pytest.approx(left / GIB)


@given(tokens=st.integers(64, 16384), requests=st.integers(1, 1024))
def test_a_larger_batch_never_leaves_more_kv(tokens, requests):
    for version in ("0.6.3", "0.9", "0.15", "0.24", "0.33"):
        server = Server(version, 0.9, tokens, requests)
        less = memory("Llama-3.1-8B", "RTX4090", 1, server).blocks
        for other in (replace(server, max_num_batched_tokens=2 * tokens),
                      replace(server, max_num_seqs=2 * requests)):  # fmt: skip
            try:
                assert memory("Llama-3.1-8B", "RTX4090", 1, other).blocks <= less
            except FluidServeError:
                pass  # nothing is left at all


def test_a_latent_vector_is_kept_whole_on_every_card_and_stands_for_all_heads():
    shape = models()["deepseek-ai/DeepSeek-V2-Lite"]
    assert shape.kv_bytes(1) == shape.kv_bytes(4) == 27 * (512 + 64) * 2
    one, two = (memory("DeepSeek-V2-Lite", "A100", tp, SERVER) for tp in (1, 2))
    assert one.block == two.block and two.tokens > one.tokens


def test_numbers_of_32_bits_take_twice_the_memory():
    shape = models()["meta-llama/Llama-3.2-3B"]
    double = shape.model_copy(update={"bytes_per_number": 4})
    assert double.kv_bytes(1) == 2 * shape.kv_bytes(1)
    assert double.weight_bytes == 2 * shape.weight_bytes


@pytest.mark.parametrize(
    ("card", "requests", "tokens", "graphs"),
    [("H100", 256, 2048, 51 + 35), ("H100", 128, 2048, 35 + 19), ("H100", 4, 2048, 4 + 3),
     ("H100", 1, 2048, 2 + 1), ("H100", 256, 16, 5 + 5)],
)  # fmt: skip
def test_graphs_are_captured_at_the_sizes_that_vllm_logs(card, requests, tokens, graphs):
    server = Server("0.33", 0.9, tokens, requests)
    assert captured_graphs(gpus()[card], server) == graphs


def test_releases_are_told_apart_by_numbers():
    rules = {
        each: server_memory().rules(version_numbers(each))
        for each in ("0.5.4", "0.6.3.post1", "0.9.2", "0.11.0", "0.19", "0.24", "v0.33.0")
    }
    assert rules["0.5.4"] is rules["0.6.3.post1"] and rules["0.11.0"] is rules["0.19"]
    assert rules["0.9.2"].logits > rules["0.11.0"].logits
    assert rules["0.19"].graph == 0 < rules["0.24"].graph and rules["v0.33.0"].counts > 0
    with pytest.raises(ConfigError, match="'vllm_version': 'new'"):
        version_numbers("new")


def test_what_does_not_fit_says_what_would():
    with pytest.raises(FluidServeError, match=r"27\.5 GiB over 1 x 23\.5 GiB.*with --tp$"):
        memory("Qwen3-14B", "RTX4090", 1, SERVER)
    with pytest.raises(FluidServeError) as wrong:
        memory("Llama-3.1-8B", "RTX4090", 1, replace(SERVER, gpu_memory_utilization=0.6))
    share = float(str(wrong.value).rpartition(" ")[2])
    assert share < 0.7
    enough = replace(SERVER, gpu_memory_utilization=share)
    assert memory("Llama-3.1-8B", "RTX4090", 1, enough).blocks >= 1
    large = replace(SERVER, max_num_batched_tokens=200_000, max_num_seqs=20_000)
    with pytest.raises(FluidServeError, match=r"GiB for the largest batch.*a smaller --max-num"):
        memory("Llama-3.1-8B", "RTX4090", 1, large)
    for share in (0, -1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="gpu_memory_utilization"):
            replace(SERVER, gpu_memory_utilization=share)


def test_a_measured_server_is_measured_and_any_other_setting_is_estimated():
    profile = find("CodeLlama-34b", "H100", 2)
    for version in ("0.15", "0.15.1", "0.19"):  # they divide memory alike
        same = profile.served_by(replace(SERVER, vllm_version=version))
        assert (same.kv_capacity, same.kv_capacity_origin) == (26602 * 16, "measured")
        assert same.kv_capacity_error is None and "(measured)" in same.said()
    others = [replace(SERVER, max_num_seqs=600), replace(SERVER, gpu_memory_utilization=0.8),
              replace(SERVER, vllm_version="0.33"), replace(SERVER, max_num_batched_tokens=4096),
              replace(SERVER, block_size=32)]  # fmt: skip
    found = [profile.served_by(each) for each in others]
    assert {each.kv_capacity_origin for each in found} == {"estimated"}
    assert all(each.kv_capacity_error > 0 for each in found)
    assert "tested up to 256 requests" in found[0].said()
    assert all("estimated within" in each.said() and "tested" not in each.said()
               for each in found[1:])  # fmt: skip
    assert len({each.kv_capacity for each in found[:4]}) == 4


def test_the_committed_sizes_are_what_runs_and_logs_give(monkeypatch):
    data = Path(os.environ.get("FLUIDSERVE_SHARED", ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip("no shared data: set FLUIDSERVE_SHARED")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("kv_capacity")
    content, table = script.server_memory(data)
    rounded = importlib.import_module("build_profiles").rounded
    assert ServerMemory(**rounded(content)) == server_memory()
    assert len(script.measured_runs(data)) == len(RUNS)
    assert (table[table.kind == "run"].error.abs() < 0.03).all()


def test_blocks_of_another_size_divide_the_same_memory():
    small = memory("CodeLlama-34b", "H100", 2, SERVER)
    large = memory("CodeLlama-34b", "H100", 2, replace(SERVER, block_size=64))
    assert large.blocks == small.blocks // 4 and large.kv == small.kv
