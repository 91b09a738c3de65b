"""Predictions from aggregates agree with those of a predictor that followed every request."""

from __future__ import annotations

import numpy as np
import pytest

from scheduling import BatchTrace, Predictor, RequestMeta
from scheduling.aggregates import SLOTS, AggregatePredictor, Aggregates
from scheduling.running_set import AGE, COUNT, OF
from serving import BatchTimeLaw, DecodeNode, RequestMix, VllmV1

MIX = RequestMix.from_lengths([20, 60, 120], [10, 25, 40])
NODE = DecodeNode(M_total=20_000, B=2_000, batch_time=BatchTimeLaw(d_0=0.01, d_kv=1e-5))


@pytest.fixture(scope="module")
def predictor():
    return AggregatePredictor(NODE, MIX)


def test_an_empty_instance_serves_a_request_alone(predictor):
    found = predictor.predict(Aggregates(0, 0), 60)
    assert found.ttft == pytest.approx(NODE.batch_time.duration(61, 1), rel=1e-6)


def test_an_empty_server_that_computes_prompts_is_that_of_the_predictor():
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-6, d_prefill=1e-4)
    server = VllmV1(batch_time=law, num_gpu_blocks=2000, block_size=16, max_num_batched_tokens=512,
                    max_num_seqs=64, time_unit="s")  # fmt: skip
    mine = AggregatePredictor(server, MIX, 1.0)
    found = mine.predict(Aggregates(0, 0), 600)
    theirs = Predictor([server], MIX, arrival_rate=1.0).predict(0, RequestMeta(1, 600), 0.0)[0]
    assert found.ttft == pytest.approx(theirs.ttft) and found.ttft > 0.06
    assert mine.predict(Aggregates(0, 0), 600, prefix_hit=500).ttft < 0.6 * found.ttft
    assert mine.predict(Aggregates(30, 10, 0.5), 600).ttft > 1.5 * found.ttft


def test_who_runs_is_as_old_as_in_equilibrium(predictor):
    state, _ = predictor.state_of(Aggregates(100, 0))
    groups = state.running.rows
    assert groups[:, COUNT].sum() == pytest.approx(100) and (np.diff(groups[:, AGE]) <= 0).all()
    # of all who run, the mean age is that of a renewal process: E[D (D - 1)] / (2 E[D])
    d, p = MIX.decode, MIX.probability
    expected = (p @ (d * (d - 1))) / (2 * p @ d)
    mean = groups[:, COUNT] @ groups[:, AGE] / 100
    assert mean == pytest.approx(expected, abs=0.5)


def test_kv_in_use_sets_how_old_they_are(predictor):
    def kv(share):
        groups = predictor.state_of(Aggregates(100, 0, share))[0].running.rows
        prompts = predictor._prompts[groups[:, OF].astype(int)]
        return float(groups[:, COUNT] @ (prompts + groups[:, AGE]))

    assert kv(0.5) == pytest.approx(10_000, rel=0.001)
    assert kv(0.51) == pytest.approx(10_200, rel=0.001)
    young, usual = kv(0.01), kv(0.0)  # no less than half as old: their prompts may be short
    prompts = 2 * young - usual
    assert 5_000 < prompts < young and kv(0.02) == young


def test_more_that_wait_run_or_hold_memory_take_longer(predictor):
    def ttft(*about):
        return predictor.predict(Aggregates(*about), 60).ttft

    def e2el(*about):
        return predictor.predict(Aggregates(*about), 60).e2el

    assert e2el(10, 0) < e2el(50, 0) < e2el(150, 0)
    assert e2el(100, 0, 0.49) > e2el(100, 0, 0.52)  # the older leave sooner
    crowd = [ttft(150, each, 0.98) for each in (0, 20, 60)]
    assert crowd == sorted(crowd) and crowd[2] > 1.5 * crowd[0]


def test_it_says_what_one_who_followed_the_requests_says(predictor):
    """A node in equilibrium, followed batch by batch, against its aggregates alone."""
    draw = np.random.default_rng(3)
    followed = Predictor([NODE], MIX)
    left, number, now, waiting = {}, 0, 0.0, []
    ratios = []
    for k in range(900):
        tokens = 85.0 * len(left)
        duration = float(NODE.batch_time.duration(tokens, len(left)))
        come = int(draw.poisson(20.0 * duration))
        started, waiting = waiting, []
        for _ in range(come):
            row = int(draw.choice(MIX.decode.size, p=MIX.probability))
            followed.enqueue_request(0, RequestMeta(number, int(MIX.prefill[row])), now)
            waiting.append((number, int(MIX.decode[row])))
            number += 1
        now += duration
        left = {each: n - 1 for each, n in left.items()} | dict(started)
        done = tuple(each for each, n in left.items() if n <= 1)
        followed.sync_batch_result(
            0, BatchTrace(k, now, duration, 0, len(left), done, tuple(s for s, _ in started))
        )
        left = {each: n for each, n in left.items() if each not in done}
        if k > 300 and k % 20 == 0:
            theirs = followed.predict(0, RequestMeta(10**6, 60), now + duration / 2)[0].e2el
            mine = predictor.predict(Aggregates(len(left), len(waiting)), 60).e2el
            ratios.append(mine / theirs)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
    assert 0.8 < min(ratios) and max(ratios) < 1.25


def test_a_state_that_was_asked_about_lately_is_not_marched_again(predictor):
    before = predictor.marches
    first = predictor.predict(Aggregates(33, 3, 0.2), 60)
    assert predictor.predict(Aggregates(33, 3, 0.2001), 60).e2el == first.e2el
    assert predictor.marches == before + 1
    for k in range(SLOTS + 5):
        predictor.predict(Aggregates(34 + k, 3, 0.2), 60)
    again = predictor.predict(Aggregates(33, 3, 0.2), 60)
    assert again.e2el == first.e2el and predictor.marches == before + SLOTS + 7
