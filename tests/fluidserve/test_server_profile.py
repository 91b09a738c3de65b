"""A model on a card under the engine of a vLLM server: settings, KV capacity, refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from calibration.profiles import find, gpus, kv_memory, models, server_memory, serving_defaults
from calibration.profiles.serving_defaults import server_of
from fluidserve.config import load_config
from fluidserve.profiled import estimate_of, with_server
from serving import ConfigError, FluidServeError

LLAMA = "meta-llama/Llama-3.1-8B"
ON_H100 = {"model": LLAMA, "hardware": "H100"}
PROFILE = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090")


def config(card="H100", utilization=None, model=LLAMA, tp=1, **flags):
    profile = find(model, card, tp, gpu_memory_utilization=utilization)
    return load_config(None, {"engine": "vllm_v1", **flags}, profile)


def blocks(card, version, **given):
    """What vLLM would log: blocks of the card's defaults and of what is given."""
    server = server_of(serving_defaults(card, version, given), version)
    return kv_memory(models()[LLAMA], gpus()[card], 1, server, server_memory()).blocks


def test_a_server_has_the_defaults_of_its_card_and_the_blocks_that_they_leave():
    for card, version, batch in (("H100", "0.33", (8192, 1024)), ("A100", "0.33", (2048, 256)),
                                 ("B200", "0.33", (16384, 1024)), ("B200", "0.19", (8192, 1024)),
                                 ("L40S", "0.19", (2048, 256))):  # fmt: skip
        found = config(card, vllm_version=version)
        assert (found.max_num_batched_tokens, found.max_num_seqs) == batch
        assert found.num_gpu_blocks == blocks(card, version)
        assert found.enable_prefix_caching and found.async_scheduling and found.time_unit == "s"


def test_what_is_given_wins_and_moves_the_blocks_that_are_left():
    found = config(max_num_seqs="64", max_num_batched_tokens="512", block_size="32")
    given = {"max_num_seqs": 64, "max_num_batched_tokens": 512, "block_size": 32}
    assert {key: getattr(found, key) for key in given} == given
    assert found.num_gpu_blocks == blocks("H100", "0.33", **given)
    assert config(num_gpu_blocks="77").num_gpu_blocks == 77
    half = config(utilization=0.5)
    assert half.num_gpu_blocks == blocks("H100", "0.33", gpu_memory_utilization=0.5)


def test_drafts_of_a_model_need_blocks_and_those_of_ngrams_do_not():
    assert config(num_speculative_tokens=3, speculative_method="ngram").num_gpu_blocks > 9000
    given = config(num_speculative_tokens=3, speculative_method="eagle", num_gpu_blocks=900)
    assert given.num_gpu_blocks == 900


def test_v0_swaps_into_the_memory_that_it_has_by_default():
    @dataclass
    class V0:
        vllm_version: str = "0.6.3"

    kind: Any = SimpleNamespace(settings=V0)
    given = {"vllm_version": "0.6.3", "max_model_len": 4096}
    found = find(LLAMA, "H100").settings(kind, given)
    assert found["num_cpu_blocks"].value == 4 * 2**30 // (16 * 2**17) == 2048
    own = find(LLAMA, "H100").settings(kind, {**given, "num_cpu_blocks": 7})
    assert own["num_cpu_blocks"].value == 7


def test_the_law_comes_with_its_prefill():
    found, law = config(), find(LLAMA, "H100").law
    assert found.d_prefill == pytest.approx(law.d_prefill / 1e3)
    assert found.d_0 == pytest.approx(law.d_0 / 1e3)
    tables = config("RTX4090")
    assert tables.d_prefill_table is not None and tables.d_mixed_kv_table is not None


def test_the_blocks_of_a_measured_server_are_those_that_it_logged():
    found = config(model="codellama/CodeLlama-34b-hf", tp=2, vllm_version="0.19",
                   max_num_seqs=128, max_num_batched_tokens=2048)  # fmt: skip
    assert found.num_gpu_blocks == 26602
    profile = find("codellama/CodeLlama-34b-hf", "H100", 2)
    assert estimate_of(profile, found) is None


def test_an_estimate_is_known_by_its_setting_and_its_error_unless_it_is_given():
    profile = find(LLAMA, "RTX4090")
    estimate = estimate_of(profile, config("RTX4090"))
    assert estimate is not None and estimate.key == "num_gpu_blocks"
    assert 0.05 < estimate.error < 0.2
    assert estimate_of(profile, config("RTX4090", num_gpu_blocks=900)) is None
    assert estimate_of(profile, load_config(None, {}, profile)) is None  # a decode node


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"utilization": 0.8, "num_gpu_blocks": 900},
         ["--gpu-memory-utilization 0.8", "num_gpu_blocks = 900"]),
        ({"pipeline_parallel_size": 2}, ["pipeline_parallel_size", "2", "stages"]),
        ({"enable_chunked_prefill": False}, ["max_model_len"]),
        ({"num_speculative_tokens": 3, "speculative_method": "eagle"},
         ["speculative_method", "eagle", "num_gpu_blocks"]),
        ({"card": "RTX4090", "utilization": 0.68}, ["no memory for KV"]),
        ({"time_unit": "none"}, ["time_unit", "real times"]),
    ],
)  # fmt: skip
def test_what_no_profile_can_say_is_refused(arguments, words):
    with pytest.raises((ConfigError, FluidServeError)) as wrong:
        config(**arguments)
    for word in words:
        assert word in str(wrong.value), str(wrong.value)


@pytest.mark.parametrize(
    ("params", "engine"),
    [
        (ON_H100, "vllm_v1"), ({**ON_H100, "max_num_seqs": "9"}, "vllm_v1"),
        ({**ON_H100, "d_0": "0.01"}, "vllm_v1"), ({**ON_H100, "d_1": "0.01"}, "vllm_v1"),
        ({**ON_H100, "M_total": "9000"}, None), ({**ON_H100, "mode": "sacrifice"}, None),
        ({**ON_H100, "engine": "decode_node"}, "decode_node"),
        ({**ON_H100, "resume": "s.npz"}, None), ({"model": LLAMA}, None), ({}, None),
    ],
)  # fmt: skip
def test_a_model_on_a_card_means_the_server_where_nothing_says_a_decode_node(params, engine):
    assert with_server(params).get("engine") == engine


@pytest.mark.parametrize(
    ("text", "engine"),
    [("seed: 3\n", "vllm_v1"), ("engine: decode_node\n", None), ("B: 3000\n", None)],
)
def test_a_file_counts_as_flags_do(tmp_path, text, engine):
    (tmp_path / "c.yaml").write_text(text)
    params = {**ON_H100, "config_file": str(tmp_path / "c.yaml")}
    assert with_server(params).get("engine") == engine


def test_simulate_runs_the_server_and_commands_with_a_fluid_model_say_why_not(run):
    done = run("simulate", *PROFILE, "--arrival-rate", 4, "--num-requests", 30, "--out", "x")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["engine"] == said["instance"]["engine"] == "vllm_v1"
    assert said["instance"]["max_num_seqs"] == 256 and said["metrics"]["completed"] == 30
    assert not any("prefill is left out" in each for each in said["warnings"])
    assert f"{said['instance']['num_gpu_blocks'] * 16} tokens (estimated within" in done.stderr
    used = yaml.safe_load(open("x/config_used.yaml").read())
    assert used["engine"] == "vllm_v1"
    again = run("simulate", "--config", "x/config_used.yaml", "--requests", "x/requests.csv")
    assert json.loads(again.stdout)["metrics"] == said["metrics"]
    loaded = run("simulate", *PROFILE, "--load", 0.5, "--num-requests", 30)
    workload = json.loads(loaded.stdout)["workload"]
    assert 0.3 < workload["load"] < 0.8 and workload["capacity"] > 1
    drafts = run("simulate", *PROFILE, "--load", 0.5, "--num-speculative-tokens", 2)
    assert drafts.exit_code == 2 and "no fluid model answers for the engine vllm_v1 with" in (
        drafts.stderr
    )
    solved = run("solve", *PROFILE, "--load", 0.5, "--num-requests", 30, "--budget", 0.2)
    assert solved.exit_code == 0 and json.loads(solved.stdout)["instance"]["engine"] == "vllm_v1"
    work = run("solve", *PROFILE, "--method", "node_work", "--load", 0.5, "--num-requests", 30)
    assert work.exit_code == 0 and json.loads(work.stdout)["instance"]["engine"] == "vllm_v1"
    other = run("solve", *PROFILE, "--method", "eulerian_jax", "--load", 0.5, "--num-requests", 30)
    assert other.exit_code == 0 and "--engine vllm_v1 is the server" in other.stderr
    named = run(
        "solve", *PROFILE, "--engine", "decode_node", "--load", 0.5, "--num-requests", 30,
        "--budget", 0.2,
    )  # fmt: skip
    assert "is the server" not in named.stderr and named.exit_code == 0


def test_a_rate_that_nobody_said_is_said(run):
    done = run("simulate", *PROFILE, "--num-requests", 9)
    said = json.loads(done.stdout)
    (cache,) = said["warnings"]
    assert "prefix cache: it finds nothing" in cache and cache in done.stderr
    assert said["workload"]["note"].startswith("no rate was given, the load is 0.8 of capacity")


def test_a_full_cache_says_how_much_its_estimate_decides(run):
    done = run("simulate", *PROFILE, "--gpu-memory-utilization", 0.75, "--arrival-rate", 600,
               "--num-requests", 400)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (line,) = [e for e in json.loads(done.stdout)["warnings"] if e.startswith("estimated:")]
    assert "num_gpu_blocks" in line and line.count("mean TTFT is") == 3


def test_every_command_reads_a_model_on_a_card_as_the_same_server(run):
    asked = (*PROFILE, "--load", 0.5, "--num-requests", 20)
    rates = {}
    for command in ("generate", "solve", "simulate", "analyze", "compare"):
        more = ("--replications", 1, "--no-pictures") if command == "compare" else ()
        more += ("--transient",) if command == "analyze" else ()
        more += ("--budget", 0.2) if command in ("solve", "analyze") else ()
        done = run(command, *asked, *more)
        assert done.exit_code == 0, done.stderr
        rates[command] = json.loads(done.stdout)["workload"]["capacity"]
    assert len(set(rates.values())) == 1, rates
