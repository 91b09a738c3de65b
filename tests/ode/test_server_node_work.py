"""One server by the work in its system: against plain simulations, the engine and closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import discrete
from fluid import capacity, saturation, work_closure
from ode import solve, stationary
from ode.prompt_server.first_tokens import AT_ONCE, first_tokens, gaps_of
from ode.prompt_server.node_work import ServerModel, _passed_on, _passed_on_by_each
from serving import BatchTimeLaw, RateProfile, RequestMix, UnsupportedError, VllmV0, VllmV1
from serving.kinds.fluid_models import reading_of
from studies import Question
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9)
MIX = describe("normal").mix
SEATS = VllmV1(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=64)
KV = VllmV1(batch_time=LAW, num_gpu_blocks=800)


def plain_first_tokens(law, is_ahead, budget, stream, sizes, decodes, context, arrivals, seed):
    """Return the times to the first token of a server on which always as many requests decode.

    A plain reading: arrivals in order, steps one after the other, first come first served.
    """
    rng = np.random.default_rng(seed)
    rate, dispersion = stream
    at = np.cumsum(rng.gamma(1 / dispersion, dispersion / rate, arrivals))
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
@pytest.mark.parametrize(("share", "dispersion"), [(0.45, 1.0), (0.8, 1.0), (0.45, 0.3), (0.45, 3)])
def test_first_tokens_are_those_of_steps_one_after_the_other(is_ahead, budget, share, dispersion):
    law = BatchTimeLaw(d_0=0.02, d_kv=0.0, d_prefill=1e-4)
    sizes = np.repeat([50.0, 200.0, 1000.0], [6, 3, 1])
    rate = share / (1e-4 * sizes.mean())  # prompts take so much of the time
    if budget < 1e4:
        rate *= 0.7  # full steps compute .75 of what they could without an end
    stream = rate, dispersion
    first, size = plain_first_tokens(law, is_ahead, budget, stream, sizes, 0, 0, 100_000, 3)
    mine, asked = sampled_first_tokens(law, is_ahead, budget, stream, sizes, 40_000)
    for prompt in (50.0, 200.0, 1000.0):
        theirs, ours = first[size == prompt], mine[asked == prompt]
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.05), prompt
        for percentile in (50, 95):
            said = np.percentile(ours, percentile)
            assert said == pytest.approx(np.percentile(theirs, percentile), rel=0.1), prompt


def sampled_first_tokens(law, is_ahead, budget, stream, sizes, count):
    """Return the times to the first token, and the prompts, of samples that find room."""
    rate, dispersion = stream
    table = np.stack([sizes, 0 * sizes, 0 * sizes, sizes])
    rng = np.random.default_rng(5)
    own = np.ascontiguousarray(table[:, rng.integers(0, sizes.size, count)])
    usual = float(law.duration(0.0, 0.0)) / (1 - rate * 1e-4 * sizes.mean())
    together = max(1.0, rate * usual / AT_ONCE)
    out = np.empty((3, count))
    vector = law.vector()
    first_tokens(
        vector.ctypes.data, 0.0, is_ahead, budget, rate, together, gaps_of(dispersion, together),
        0.0, table, np.zeros(count), np.zeros(count), np.full(count, usual),
        np.ones(count, np.int64), rng.random(count), own, np.zeros(count), 1, out,
    )  # fmt: skip
    return out[1], own[0]


def test_many_arrivals_of_a_step_are_as_good_as_a_few_of_several():
    """Prompts of requests that are taken together scatter as those of so many do."""
    law = BatchTimeLaw(d_0=2.0, d_kv=0.0, d_prefill=1e-4)
    sizes = np.repeat([50.0, 200.0, 1000.0], [6, 3, 1])
    stream = 0.45 / (1e-4 * sizes.mean()), 2.0
    first, size = plain_first_tokens(law, False, 1e9, stream, sizes, 0, 0, 100_000, 3)
    mine, asked = sampled_first_tokens(law, False, 1e9, stream, sizes, 20_000)
    assert stream[0] * 2.0 > 1.5 * AT_ONCE
    for prompt in (50.0, 1000.0):
        theirs, ours = first[size == prompt], mine[asked == prompt]
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.05)


def test_a_server_whose_prompts_fill_the_steps_is_near_the_engine():
    """In equilibrium the queue of prompts under way is that of the steps."""
    mix = RequestMix.from_lengths([200.0, 1500.0], [20, 30], [0.7, 0.3])
    law = BatchTimeLaw(d_0=0.008, d_decode=1e-4, d_kv=5e-8, d_prefill=4e-5)
    node = VllmV1(batch_time=law, num_gpu_blocks=60_000, max_num_batched_tokens=1024)
    full: Any = saturation(mix, node)
    assert full.binds == "max_num_batched_tokens"
    for load in (0.4, 0.75):
        question = Question(Workload(mix, 1.0), node, seed=4).at_load(load)
        found: Any = stationary(mix, node, question.known_rate)
        assert found.method == "node_work"
        ran = discrete.simulate(question.stream.sample(4, num_requests=30_000), node)
        values = ran.samples()
        for name in ("ttft", "e2el"):
            engine = getattr(values, name)[2000:]
            assert found.latencies[name].mean == pytest.approx(engine.mean(), rel=0.08), load
            p99 = np.percentile(engine, 99)
            assert found.latencies[name].percentiles[99] == pytest.approx(p99, rel=0.15), load


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


def test_time_passed_on_is_that_of_the_sum():
    """A step that is longer by 1 makes the next longer by rho, and so on."""
    rho, steps = 0.8, np.array([1.0, 2.0, 7.0])
    whole = [sum(rho**j for j in range(int(d))) for d in steps]
    each = [np.mean([sum(rho**j for j in range(k)) for k in range(1, int(d) + 1)]) for d in steps]
    assert np.allclose(_passed_on(rho, steps), whole)
    assert np.allclose(_passed_on_by_each(rho, steps), each)
    assert np.allclose(_passed_on_by_each(0.0, steps), 1.0)


def test_when_nobody_arrives_prompts_lengthen_no_step():
    """Those who are left over decode in steps without prompts."""
    server = ServerModel(MIX, reading_of(SEATS).node)
    rate = 0.8 * server.capacity
    usual, alone = server.closure(rate, 1.0), server.closure(rate, 1.0, arriving=0.0)
    tokens, requests = np.array([10.0]), np.array([10.0])
    with_prompts, _ = usual.batches.passing(tokens, requests)
    without, _ = alone.batches.passing(tokens, requests)
    assert with_prompts > without
    assert np.allclose(without, alone.batches.duration(tokens, requests))
