"""Figures of docs/theory.md, from the functions of the benchmark that prints them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

import fluid

FILE = Path(__file__).parents[2] / "benchmarks/theory.py"


@pytest.fixture(scope="module")
def theory():
    spec = importlib.util.spec_from_file_location("theory", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_of_a_life_is_a_sum_over_steps(theory):
    for prompt, answer in ((3, 1), (512, 4), (513, 2), (1600, 7)):
        held = [min(512 * (k + 1), prompt) for k in range(math.ceil(prompt / 512))]
        held += [prompt + k for k in range(1, answer)]
        found = theory.lifetime_memory(np.array([prompt]), np.array([answer]))
        assert found == sum(held)


@pytest.mark.parametrize("answers", [(2, 3), (3, 4), (5, 7)])
def test_the_least_stable_prompt_is_where_the_root_crosses_one(theory, answers):
    least = theory.least_stable_prompt(answers)
    roots = []
    for prompt in (least - 1, least):
        c = np.array(
            [np.mean([(prompt + m + 1) * (m < answer) for answer in answers])
             for m in range(max(answers))]
        )  # fmt: skip
        roots.append(abs(np.roots(c)).max())
    assert roots[1] < 1 <= roots[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "answers", "is_stable"),
    [(10, (2, 3), True), (10, (2, 4), False), (10, (40, 41), False), (20, (20,), False)],
)
def test_the_coprime_rule_by_certificate_and_engine(theory, prompt, answers, is_stable):
    share, seen = theory.full_node(prompt, answers, 3000)
    assert seen.stable is is_stable
    assert (share > 0.99) is is_stable
    if seen.cycle_loss is not None and not is_stable:
        assert 1 - share == pytest.approx(seen.cycle_loss, abs=0.005)


@pytest.mark.slow
def test_chunked_keeps_up_where_prefill_first_does_not(theory):
    rng = np.random.default_rng(0)
    number = 5000
    gaps = np.cumsum(rng.exponential(1, number))
    prompt, answer = rng.geometric(1 / 200, number), rng.geometric(1 / 10, number)
    prompt = np.minimum(prompt, 1800)
    common = {
        "batch_time": theory.BatchTimeLaw(d_0=0.009, d_prefill=6.7e-5, d_decode=4e-5, d_kv=8e-8),
        "num_gpu_blocks": 28_780, "max_num_seqs": 64, "max_num_batched_tokens": 2048,
    }  # fmt: skip
    chunked = theory.VllmV1(**common, enable_prefix_caching=False, async_scheduling=False)
    first = theory.VllmV0(**common, enable_chunked_prefill=False, max_model_len=2048)
    mix = theory.RequestTable.validated(gaps, prompt, answer).mix()
    bound = fluid.capacity(mix, chunked)
    found = [theory.keeps_up_to(node, gaps, prompt, answer, bound) for node in (chunked, first)]
    assert found[0] == pytest.approx(bound, rel=0.05)
    assert found[1] < 0.93 * found[0]
