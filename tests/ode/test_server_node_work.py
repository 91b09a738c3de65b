"""One server by the work in its system: against plain simulations, the engine and closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import discrete
from fluid import capacity, saturation, work_closure
from ode import solve, stationary
from ode.prompt_server.first_tokens import first_tokens
from serving import BatchTimeLaw, RateProfile, RequestMix, UnsupportedError, VllmV0, VllmV1
from studies import Question
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9)
MIX = describe("normal").mix
SEATS = VllmV1(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=64)
KV = VllmV1(batch_time=LAW, num_gpu_blocks=800)


def plain_first_tokens(law, is_ahead, budget, rate, sizes, decodes, context, arrivals, seed):
    """Return the times to the first token of a server on which always as many requests decode.

    A plain reading: arrivals in order, steps one after the other, first come first served.
    """
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, arrivals))
    size = rng.choice(sizes, arrivals)
    left, first, known, served = size.copy(), np.zeros(arrivals), 0, 0
    now, ready = 0.0, 0
    while served < arrivals:
        while known < arrivals and at[known] <= now:
            known += 1
        # a step that is decided ahead has those who came before the step under way began
        here, ready = (ready, known) if is_ahead else (known, known)
        room, tokens, done = budget, 0.0, []
        for i in range(served, here):
            take = min(left[i], room)
            left[i] -= take
            room -= take
            tokens += take
            if left[i] == 0:
                done.append(i)
            if room == 0:
                break
        now += float(law.step_duration(decodes, context + tokens, tokens))
        for i in done:
            first[i] = now - at[i]
            served += 1
    return first, size


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("budget", [100_000.0, 600.0])
def test_first_tokens_are_those_of_steps_one_after_the_other(is_ahead, budget):
    law = BatchTimeLaw(d_0=0.02, d_kv=0.0, d_prefill=1e-4)
    sizes = np.repeat([50.0, 200.0, 1000.0], [6, 3, 1])
    rate = 0.45 / (1e-4 * sizes.mean())  # prompts take 45 % of the time
    first, size = plain_first_tokens(law, is_ahead, budget, rate, sizes, 0, 0, 60_000, 3)
    table = np.stack([sizes, 0 * sizes, 0 * sizes, sizes])
    longer = np.repeat(sizes, (sizes / 10).astype(int))
    longer = np.stack([longer, 0 * longer, 0 * longer, longer])
    n = 40_000
    rng = np.random.default_rng(5)
    own = np.ascontiguousarray(table[:, rng.integers(0, sizes.size, n)])
    out = np.empty((2, n))
    vector = law.vector()
    first_tokens(
        vector.ctypes.data, 0.0, is_ahead, budget, rate, 0.0, table, longer, np.zeros(n),
        np.zeros(n), np.full(n, 0.02 / 0.55), np.ones(n, np.int64), rng.random(n), own, 1, out,
    )  # fmt: skip
    bound = 0.02 if budget > 1e4 else 0.1  # a prompt in chunks is met in one of its steps
    for prompt in (50.0, 200.0, 1000.0):
        mine, theirs = out[1][own[0] == prompt], first[size == prompt]
        assert mine.mean() == pytest.approx(theirs.mean(), rel=bound), prompt
        assert np.percentile(mine, 95) == pytest.approx(np.percentile(theirs, 95), rel=2 * bound)


@pytest.mark.parametrize("node", [SEATS, KV, replace(SEATS, async_scheduling=False)])
def test_the_fastest_work_is_that_of_the_capacity(node):
    closure = work_closure(MIX, node, 0.8 * capacity(MIX, node))
    assert closure.fastest == pytest.approx(capacity(MIX, node) * closure.work.mean)
    full: Any = saturation(MIX, node)
    time, rate = closure.batches.passing(closure.saturation.batch_tokens, full.batch_size)
    assert float(rate) == pytest.approx(closure.fastest)
    assert closure.batches.full(full.batch_size) == pytest.approx(full.batch_time)
    # without preemptions the time of a full step is the work that is done in it
    if full.recomputed == 0:
        assert float(time) == pytest.approx(full.batch_time, rel=1e-6)
        assert full.batch_time * closure.fastest == pytest.approx(
            full.entering * closure.work.mean, rel=1e-6
        )


def test_prompts_of_no_time_leave_a_decode_queue():
    """Without the time of prompts, one server of seats has the law of its requests alone."""
    law = BatchTimeLaw(d_0=0.02, d_decode=0.0, d_kv=0.0, d_prefill=1e-12)
    node = VllmV1(batch_time=law, num_gpu_blocks=100_000, max_num_seqs=400, async_scheduling=False)
    rate = 0.5 * capacity(MIX, node)
    found = stationary(MIX, node, rate)
    ttft, e2el = found.latencies["ttft"], found.latencies["e2el"]
    assert ttft.mean == pytest.approx(0.02 * 1.5, rel=0.01)  # half a step, and its own
    assert e2el.mean == pytest.approx(0.02 * (0.5 + MIX.mean_decode), rel=0.01)
    assert found.waits < 1e-6


@pytest.mark.parametrize(("node", "bound"), [(SEATS, 0.1), (KV, 0.12)])
def test_a_server_from_an_empty_start_is_near_the_engine(node, bound):
    horizon = 400 / capacity(MIX, node)
    question = Question(Workload(MIX, 1.0), node, horizon=horizon, seed=2).at_load(1.1)
    flow = solve(question.profile, MIX, node, method="node_work").metrics().latencies
    drawn = [each for each in map(question.replication, range(150)) if each is not None]
    runs = [discrete.simulate(each, node).samples() for each in drawn]
    for name in ("ttft", "e2el"):
        values = np.concatenate([getattr(each, name) for each in runs])
        assert flow[name].mean == pytest.approx(values.mean(), rel=bound), name
        assert flow[name].percentiles[95] == pytest.approx(np.percentile(values, 95), rel=bound)


def test_requests_that_are_all_alike_have_steps_of_a_sane_length():
    """At little work nobody decodes yet: how many do over their tokens is nothing over nothing."""
    mix = RequestMix.from_lengths([1283.0], [152])
    law = BatchTimeLaw(d_0=0.0061, d_decode=1e-4, d_kv=1.5e-7, d_prefill=5.8e-5)
    node = VllmV1(batch_time=law, num_gpu_blocks=422, max_num_seqs=64, max_num_batched_tokens=512,
                  async_scheduling=False)  # fmt: skip
    for load in (0.2, 0.58, 0.9):
        closure = work_closure(mix, node, load * capacity(mix, node))
        work = np.linspace(0.0, closure.level[-1], 5000)  # between the closure's own levels too
        held = np.interp(work, closure.level, closure.executing)
        held = np.minimum(held, closure.saturation.batch_tokens)
        times = closure.batches.duration(
            held, held * np.interp(work, closure.level, closure.per_token)
        )
        assert (times <= 1.5 * closure.saturation.batch_time).all()
    profile = RateProfile.constant(0.58 * capacity(mix, node), 26.0)
    found = solve(profile, mix, node, method="node_work").metrics().latencies
    question = Question(Workload(mix, 1.0), node, horizon=26.0, seed=1).at_load(0.58)
    drawn = [each for each in map(question.replication, range(200)) if each is not None]
    runs = np.concatenate([discrete.simulate(each, node).samples().ttft for each in drawn])
    assert found["ttft"].mean == pytest.approx(runs.mean(), rel=0.25)


def test_near_capacity_much_that_is_computed_again_is_said():
    node = VllmV1(batch_time=LAW, num_gpu_blocks=300)
    full: Any = saturation(MIX, node)
    assert full.binds == "KV blocks" and full.recomputed > 0

    def said(load: float, server: VllmV1) -> bool:
        labels = stationary(MIX, server, load * capacity(MIX, server)).labels
        return any("preemptions make a full server compute" in label for label in labels)

    assert said(0.9, node)
    assert not said(0.6, node) and not said(0.9, SEATS)


def test_what_the_method_does_not_know_is_refused():
    profile = RateProfile.constant(10.0, 10.0)
    apart = VllmV0(batch_time=LAW, num_gpu_blocks=6000)
    with pytest.raises(UnsupportedError, match="steps of the engine vllm_v0 are prompts or"):
        solve(profile, MIX, apart, method="node_work")
    long = RequestMix.from_lengths([4000.0], [2])
    narrow = VllmV1(batch_time=LAW, num_gpu_blocks=60_000)
    with pytest.raises(UnsupportedError, match="max_num_batched_tokens binds"):
        solve(profile, long, narrow, method="node_work")
    with pytest.raises(UnsupportedError, match="cannot stop undrained"):
        solve(profile, MIX, SEATS, method="node_work", drain=False)
    found: list[Any] = [stationary(MIX, node, 10.0) for node in (apart, SEATS)]
    assert [each.method for each in found] == ["births", "node_work"]
