"""Defaults of ``vllm serve`` by card and version, as vLLM's source says them."""

from __future__ import annotations

import pytest

from calibration.profiles import gpus, serving_defaults
from calibration.profiles.serving_defaults import GIVEN, OF_THE_CARD, OF_VLLM, server_of
from serving import FluidServeError


def values(*arguments):
    return {key: each.value for key, each in serving_defaults(*arguments).items()}


LARGE = {"H100", "H200", "RTXPRO6000"}
"""Cards of 70 GB and more but A100."""


@pytest.mark.parametrize("card", sorted(gpus()))
def test_the_largest_batch_follows_the_card(card):
    expected = (16384, 1024) if card == "B200" else (8192, 1024) if card in LARGE else (2048, 256)
    for version in ("0.33", "0.32.0", "0.33.0"):
        found = values(card, version)
        assert (found["max_num_batched_tokens"], found["max_num_seqs"]) == expected
    found = values(card, "0.19.1")  # the largest class came later
    expected = (8192, 1024) if card == "B200" else expected
    assert (found["max_num_batched_tokens"], found["max_num_seqs"]) == expected


def test_every_default_says_where_it_is_from():
    found = serving_defaults("H100", "0.33", {"max_num_seqs": 64, "block_size": None})
    assert (found["max_num_seqs"].value, found["max_num_seqs"].origin) == (64, GIVEN)
    assert found["max_num_batched_tokens"].origin == OF_THE_CARD
    assert (found["block_size"].value, found["block_size"].origin) == (16, OF_VLLM)
    for key in ("enable_prefix_caching", "async_scheduling", "enable_chunked_prefill"):
        assert (found[key].value, found[key].origin) == (True, OF_VLLM)


def test_the_share_of_memory_is_that_of_the_version():
    assert values("H100", "0.33")["gpu_memory_utilization"] == 0.92
    assert values("H100", "0.19")["gpu_memory_utilization"] == 0.9
    assert values("H100", "0.33", {"gpu_memory_utilization": 0.5})["gpu_memory_utilization"] == 0.5


@pytest.mark.parametrize(
    ("given", "tokens", "requests"),
    [
        ({"max_num_batched_tokens": 100}, 100, 100),  # a batch has no more requests than tokens
        ({"max_model_len": 4}, 1024, 256),  # 256 requests of at most 4 tokens
        ({"max_num_seqs": 3, "max_model_len": 100}, 300, 3),
        ({"enable_chunked_prefill": False, "max_model_len": 5000}, 5000, 256),
        ({"enable_chunked_prefill": False, "max_model_len": 700}, 2048, 256),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 700}, 700, 256),
    ],
)
def test_defaults_follow_what_is_given_as_in_vllm(given, tokens, requests):
    found = values("L4", "0.33", given)
    assert (found["max_num_batched_tokens"], found["max_num_seqs"]) == (tokens, requests)


@pytest.mark.parametrize("version", ["0.5.4", "0.6.3.post1"])
@pytest.mark.parametrize(
    ("given", "tokens", "chunked"),
    [
        ({"max_model_len": 4096}, 4096, False),
        ({"max_model_len": 1024}, 2048, False),
        ({"max_model_len": 131072}, 512, True),
        ({"max_model_len": 131072, "enable_chunked_prefill": False}, 131072, False),
        ({"max_model_len": 131072, "max_num_batched_tokens": 600}, 600, True),
        ({"enable_chunked_prefill": True}, 512, True),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 9}, 9, False),
    ],
)
def test_v0_has_defaults_of_its_own_on_every_card(version, given, tokens, chunked):
    for card in ("H100", "L4"):
        found = values(card, version, given)
        assert (found["max_num_batched_tokens"], found["max_num_seqs"]) == (tokens, 256)
        assert found["enable_chunked_prefill"] is chunked
        assert found["enable_prefix_caching"] is False and "async_scheduling" not in found
        assert (found["gpu_memory_utilization"], found["swap_space"]) == (0.9, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("H100", "0.11"), ["vllm_version", "0.11", "0.33"]),
        (("H100", "0.330"), ["vllm_version", "0.330"]),
        (("H100", "latest"), ["vllm_version", "latest"]),
        (("H100", "0.6.3"), ["max_model_len", "enable_chunked_prefill"]),
        (("H100", "0.6.3", {"enable_chunked_prefill": False}), ["max_num_batched_tokens"]),
        (("H100", "0.33", {"enable_chunked_prefill": False}), ["max_model_len"]),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_asked_for(arguments, words):
    with pytest.raises(FluidServeError) as wrong:
        serving_defaults(*arguments)
    for word in words:
        assert word in str(wrong.value)


def test_a_server_has_the_settings_on_which_its_memory_depends():
    server = server_of(serving_defaults("H100", "0.33", {"block_size": 32}), "0.33")
    assert (server.max_num_batched_tokens, server.max_num_seqs) == (8192, 1024)
    assert (server.vllm_version, server.gpu_memory_utilization) == ("0.33", 0.92)
    assert server.block_size == 32
