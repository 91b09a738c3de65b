"""A server of few requests and a full KV: the march against the engine and plain counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import discrete
from fluid import capacity, requests_that_fit, saturation, saturation_of_many
from fluid.prompt_server.saturation import FEW
from fluid.prompt_server.whole_requests import whole_server
from serving import BatchTimeLaw, RequestMix, RequestTable, VllmV1, reading_of

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_prefill=5e-5, d_kv=1e-7)
ONE = VllmV1(batch_time=LAW, num_gpu_blocks=9, async_scheduling=False)
SMALL = VllmV1(batch_time=LAW, num_gpu_blocks=400, max_num_seqs=256)
rng = np.random.default_rng(5)
SPREAD = RequestMix.from_lengths(
    rng.integers(150, 700, 300), rng.integers(60, 300, 300), np.full(300, 1 / 300)
)
ALIKE = RequestMix.from_lengths([300], [150])


def test_a_server_of_one_request_takes_its_steps_one_by_one():
    """100 tokens of prompt, 12 of answer: a step with the prompt and 11 decodes, by hand."""
    mix = RequestMix.from_lengths([100], [12])
    read = 100 + sum(100 + k for k in range(1, 12))
    service = 12 * LAW.d_0 + 100 * LAW.d_prefill + 11 * LAW.d_decode + read * LAW.d_kv
    # the march ends within a request: one step of 12 in some thousand
    assert capacity(mix, ONE) == pytest.approx(1 / service, rel=1e-4)
    full: Any = saturation(mix, ONE)
    assert full.recomputed == 0


def completes(mix: RequestMix, server: VllmV1, count: int = 1500) -> float:
    """Return what the engine completes per time from a queue, for the work that it drew."""
    at = np.random.default_rng(1).choice(len(mix), size=count, p=mix.probability)
    p, d = mix.prefill[at].astype(int), mix.decode[at]
    table = RequestTable.validated(np.zeros(count), p, d)
    ended = discrete.simulate(table, server, record_batches=False).requests["completion_time"]
    first, last = np.quantile(ended, (0.15, 0.85))
    done = (ended > first) & (ended <= last)
    return float((p * d + d * (d + 1) / 2)[done].sum()) / mix.work / float(last - first)


@pytest.mark.parametrize("mix", [SPREAD, ALIKE], ids=["spread", "alike"])
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"async_scheduling": False}, {"enable_prefix_caching": False},
        {"ignore_eos": True}, {"max_num_batched_tokens": 256}, {"num_gpu_blocks": 130},
        {"watermark": 0.05},
    ],
    ids=lambda each: next(iter(each), "plain"),
)  # fmt: skip
def test_capacity_of_few_is_what_the_engine_completes(mix, changes):
    server = replace(SMALL, **changes)
    full: Any = saturation(mix, server)
    assert full.binds == "KV blocks" and requests_that_fit(mix, server) < FEW
    assert capacity(mix, server) == pytest.approx(completes(mix, server), rel=0.015)


def test_what_is_not_few_or_not_kv_has_its_closed_form():
    for server in (
        replace(SMALL, num_gpu_blocks=8000),
        replace(SMALL, max_num_seqs=4),
        replace(SMALL, prefix_hit_share=0.3),
    ):
        assert saturation(SPREAD, server) == saturation_of_many(SPREAD, server)
    assert saturation(SPREAD, SMALL) != saturation_of_many(SPREAD, SMALL)


def test_work_is_conserved_and_the_start_is_forgotten():
    server = reading_of(SMALL).node
    fit = requests_that_fit(SPREAD, SMALL)
    spread, fresh = (whole_server(SPREAD, server, fit, spread=each) for each in (True, False))
    rates = [each.entering / each.batch_time for each in (spread, fresh)]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)
    # what a step computes is what enters, once, and what is computed again
    once = spread.entering * (SPREAD.mean_prefill + SPREAD.mean_decode)  # one decode too many
    assert spread.batch_tokens == pytest.approx(once + spread.recomputed, rel=0.02)
