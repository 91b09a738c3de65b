"""Predictions from aggregates agree with those of a predictor that followed every request."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from scheduling import BatchTrace, Predictor, RequestMeta
from scheduling.aggregates import SLOTS, AggregatePredictor, Aggregates, Candidate
from scheduling.running_set import AGE, COUNT, OF
from serving import BatchTimeLaw, ConfigError, DecodeNode, RequestMix, SolveError, VllmV1

MIX = RequestMix.from_lengths([20, 60, 120], [10, 25, 40])
NODE = DecodeNode(M_total=20_000, B=2_000, batch_time=BatchTimeLaw(d_0=0.01, d_kv=1e-5))


def said(predictor, about, prompt, prefix_hit=0):
    """Return TTFT and E2EL of one candidate."""
    found = predictor.predict([Candidate(about, prompt, prefix_hit)])
    assert not found.failed
    return SimpleNamespace(ttft=found.ttft[0], e2el=found.e2el[0])


@pytest.fixture(scope="module")
def predictor():
    return AggregatePredictor(NODE, MIX)


def test_an_empty_instance_serves_a_request_alone(predictor):
    found = said(predictor, Aggregates(0, 0), 60)
    assert found.ttft == pytest.approx(NODE.batch_time.duration(61, 1), rel=1e-6)


def test_an_empty_server_that_computes_prompts_is_that_of_the_predictor():
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-6, d_prefill=1e-4)
    server = VllmV1(batch_time=law, num_gpu_blocks=2000, block_size=16, max_num_batched_tokens=512,
                    max_num_seqs=64, time_unit="s")  # fmt: skip
    mine = AggregatePredictor(server, MIX, 1.0)
    found = said(mine, Aggregates(0, 0), 600)
    theirs = Predictor([server], MIX, arrival_rate=1.0).predict(0, RequestMeta(1, 600), 0.0)[0]
    assert found.ttft == pytest.approx(theirs.ttft) and found.ttft > 0.06
    assert said(mine, Aggregates(0, 0), 600, prefix_hit=500).ttft < 0.6 * found.ttft
    assert said(mine, Aggregates(30, 10, 0.5), 600).ttft > 1.5 * found.ttft


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
        return said(predictor, Aggregates(*about), 60).ttft

    def e2el(*about):
        return said(predictor, Aggregates(*about), 60).e2el

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
            mine = said(predictor, Aggregates(len(left), len(waiting)), 60).e2el
            ratios.append(mine / theirs)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
    assert 0.8 < min(ratios) and max(ratios) < 1.25


def test_many_at_once_get_what_each_gets_alone():
    """Bit for bit, whoever else is asked about, more prompts and states than are kept included."""
    draw, alone = np.random.default_rng(1), AggregatePredictor(NODE, MIX)
    together = AggregatePredictor(NODE, MIX)
    for _ in range(3):
        asked = [
            Candidate(
                Aggregates(int(draw.integers(0, 200)), int(draw.integers(0, 3)), draw.random()),
                int(draw.integers(0, 150)), int(draw.integers(0, 2)),
            )
            for _ in range(100)
        ]  # fmt: skip
        found = together.predict(asked)
        for c, each in enumerate(asked):
            one = alone.predict([each])
            assert [one.ttft[0], one.tpot[0], one.e2el[0]] == [
                found.ttft[c], found.tpot[c], found.e2el[c],
            ]  # fmt: skip
    assert together.predict([]).ttft.size == 0
    with pytest.raises(ConfigError, match=str(SLOTS)):
        alone.predict([asked[0]] * (SLOTS + 1))


def test_what_a_predictor_of_requests_says_of_the_state_is_said():
    about = Aggregates(40, 2, 0.3)
    mine, theirs = AggregatePredictor(NODE, MIX, 5.0), Predictor([NODE], MIX, arrival_rate=5.0)
    found = mine.predict([Candidate(about, prompt) for prompt in (20, 60, 120)])
    theirs.states[0], _ = mine.state_of(about)
    for c, prompt in enumerate((20, 60, 120)):
        each = theirs.predict(0, RequestMeta(1, prompt), 0.0)[0]
        assert (found.ttft[c], found.e2el[c]) == (each.ttft, each.e2el)
        assert found.tpot[c] == pytest.approx(each.tpot, rel=1e-12)


def test_one_without_an_answer_leaves_the_others_theirs(monkeypatch):
    mine = AggregatePredictor(NODE, MIX)
    good = mine.predict([Candidate(Aggregates(5, 0), 60)])

    def breaks(*_):
        raise SolveError("march", "failed", "no")

    monkeypatch.setattr(mine._predictor._forecasters[0], "march", breaks)
    found = mine.predict([Candidate(Aggregates(6, 0), 60), Candidate(Aggregates(5, 0), 60)])
    assert list(found.failed) == [0] and np.isnan(found.ttft[0])
    assert found.ttft[1] == good.ttft[0] and found.e2el[1] == good.e2el[0]


def test_a_prompt_that_never_fits_has_no_answer_and_the_others_theirs(predictor):
    about = Aggregates(0, 0)
    found = predictor.predict([Candidate(about, 10**7), Candidate(about, 60)])
    assert list(found.failed) == [0] and np.isnan(found.tpot[0])
    assert found.ttft[1] == predictor.predict([Candidate(about, 60)]).ttft[0]


def test_a_state_that_was_asked_about_lately_is_not_marched_again(predictor):
    before = predictor.marches
    first = said(predictor, Aggregates(33, 3, 0.2), 60)
    assert said(predictor, Aggregates(33, 3, 0.2001), 60).e2el == first.e2el
    assert predictor.marches == before + 1
    for k in range(SLOTS + 5):
        said(predictor, Aggregates(34 + k, 3, 0.2), 60)
    again = said(predictor, Aggregates(33, 3, 0.2), 60)
    assert again.e2el == first.e2el and predictor.marches == before + SLOTS + 7
