"""The certificate of a full server: against the engine, against all roots, and where it ends."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from math import gcd

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import discrete
import fluid
import ode
from fluid.prompt_server import life
from serving import (
    BatchTimeLaw,
    RequestMix,
    RequestTable,
    UnsupportedError,
    VllmV0,
    VllmV1,
    reading_of,
)
from studies import Question, analyze
from workload import describe

LAW = BatchTimeLaw(d_0=1.0, d_decode=0.0, d_kv=0.0)
FIT = 400
ROOMY = {
    "batch_time": LAW, "num_gpu_blocks": 10**6, "max_num_seqs": 10**5,
    "max_num_batched_tokens": 10**7,
}  # fmt: skip
V1 = VllmV1(**ROOMY, enable_prefix_caching=False)
V0 = VllmV0(**ROOMY, max_model_len=4096)


def mix_of(prompt, answers):
    return RequestMix.from_lengths(np.full(len(answers), prompt), np.array(answers))


def filled(node, mix, what):
    """Return the server with one limit that lets FIT requests run."""
    each = life(mix, reading_of(node).node)
    if what == "max_num_seqs":
        return replace(node, max_num_seqs=FIT)
    if what == "max_num_batched_tokens":
        tokens = each.prompt.tokens + each.decodes
        most = int(FIT / each.stay * tokens)
        return replace(node, max_num_batched_tokens=most, max_num_seqs=2 * FIT)
    blocks = FIT * each.held / each.stay / node.block_size
    return replace(node, num_gpu_blocks=int(blocks) + 1)


def swing(node, mix, answers, root):
    """Return how completions per step scatter, over their mean, long after all began together."""
    steps = float(np.clip(15 / max(abs(np.log(root)), 1e-3), 150, 800)) if root > 0 else 150
    number = int(FIT / life(mix, reading_of(node).node).stay * steps)
    requests = RequestTable.validated(
        np.zeros(number), np.full(number, mix.prefill[0]), np.resize(answers, number)
    )
    rows = discrete.simulate(requests, node).batches
    done = np.asarray(rows["completed_count"], float)[np.asarray(rows["decode_tokens"]) > 0]
    late = np.diff(done[int(0.55 * done.size) : int(0.85 * done.size)])
    return late.std() / late.mean()


@given(
    node=st.sampled_from([V1, V1, V0, replace(V0, enable_chunked_prefill=True)]),
    prompt=st.integers(2, 300),
    answers=st.lists(st.integers(2, 12), min_size=1, max_size=3, unique=True),
    block_size=st.sampled_from([1, 4, 16]),
    is_ahead=st.booleans(),
    ignore_eos=st.booleans(),
    limit=st.sampled_from(["KV blocks", "KV blocks", "max_num_seqs"]),
)
@settings(max_examples=40, deadline=None)
def test_the_engine_swings_where_the_certificate_says_so(
    node, prompt, answers, block_size, is_ahead, ignore_eos, limit
):
    if isinstance(node, VllmV1):
        node = replace(node, async_scheduling=is_ahead, ignore_eos=ignore_eos)
    mix = mix_of(prompt, answers)
    node = filled(replace(node, block_size=block_size), mix, limit)
    found = fluid.certificate(mix, node)
    assert limit in found.message and found.memory_binds == (limit == "KV blocks")
    is_near = abs(found.max_root - 1) < 0.015
    assume(not is_near or (limit == "max_num_seqs" and not found.stable))
    assert (swing(node, mix, answers, found.max_root) > 0.45) is not found.stable


@pytest.mark.parametrize(("prompt", "answers", "is_ahead", "stable"), [
    (10, (2, 3), True, True), (10, (2, 3), False, True),  # coprime: stable
    (10, (2, 4), False, False),  # its opposite
    (200, (5, 7), False, True), (200, (5, 7), True, False),  # an answer and a step: 6 and 8
    (10, (40, 41), False, False), (10, (40, 41), True, False),  # growth beats the rule
])  # fmt: skip
def test_the_coprime_rule_where_it_holds_and_where_not(prompt, answers, is_ahead, stable):
    mix = mix_of(prompt, answers)
    node = replace(V1, block_size=1, async_scheduling=is_ahead, ignore_eos=True)
    node = filled(node, mix, "KV blocks")
    found = fluid.certificate(mix, node)
    assert found.stable is stable
    assert (swing(node, mix, answers, found.max_root) > 0.45) is not stable
    assert (ode.regime(mix, node, 1e3) == "limit_cycle") is not stable


@given(
    answers=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True),
    is_ahead=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_seats_keep_in_step_exactly_where_lives_have_a_common_divisor(answers, is_ahead):
    mix = mix_of(10, answers)
    found = fluid.certificate(mix, filled(replace(V1, async_scheduling=is_ahead), mix,
                                          "max_num_seqs"))  # fmt: skip
    lives = [each + is_ahead for each in answers]
    common = reduce(gcd, lives)
    assert found.stable is (common == 1 or max(lives) == 1)
    assert found.stable or f"multiples of {common} steps" in found.message
    held = [np.mean([m < each for each in lives]) for m in range(max(lives))]
    roots = abs(np.roots(held))
    assert found.max_root == pytest.approx(roots.max() if roots.size else 0.0, abs=1e-8)


@pytest.mark.parametrize("answers", [(20,), (5, 10)])
def test_the_tokens_of_a_step_stabilise_all_lengths(answers):
    mix = mix_of(100, answers)
    node = filled(V1, mix, "max_num_batched_tokens")
    found = fluid.certificate(mix, node)
    assert found.stable and "max_num_batched_tokens" in found.message
    assert swing(node, mix, answers, found.max_root) < 0.3


def test_what_the_certificate_does_not_know_is_said():
    long = mix_of(5000, (20, 30))
    node = replace(V1, num_gpu_blocks=2000, max_num_seqs=256, max_num_batched_tokens=2048)
    with pytest.raises(UnsupportedError, match="100% of the prompts take several steps of 2048"):
        fluid.certificate(long, node)
    assert ode.regime(long, node, 1e3) == "backlogged"
    mix = mix_of(100, (40,))
    shared = replace(V1, num_gpu_blocks=2000, enable_prefix_caching=True, prefix_hit_share=0.5)
    assert "as if requests shared no blocks" in fluid.certificate(mix, shared).message
    slow = fluid.certificate(mix_of(100, (100, 101)), replace(V1, max_num_seqs=64))
    assert slow.stable and "steps to halve" in slow.message


def test_it_is_shown_where_a_server_is_analyzed_and_solved():
    source = describe(types="(100,40,1.0)")
    node = replace(V1, num_gpu_blocks=4000, block_size=16)
    found = analyze(Question(source.at_rate(3.0), node, horizon=100.0), method="model")
    assert found.certificate == fluid.certificate(source.mix, node)
    assert any("limit cycle" in each for each in found.warnings)
    solved = ode.solve(source.at_rate(3.0).profile(10.0), source.mix, node)
    assert solved.certificate == found.certificate
