"""The online predictor: what it knows of instances, and that its answers come true."""

from __future__ import annotations

import math

import numpy as np
import pytest

from discrete import engine_for, simulate
from scheduling import BatchTrace, Faults, LengthModel, Predictor, RequestMeta, route
from scheduling.instance_state import InstanceState
from scheduling.reference import fork, truth
from serving import (
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    FluidServeError,
    RequestMix,
    RequestTable,
    UnsupportedError,
    VllmV1,
)
from studies import Question
from workload import describe

MIX = describe("normal").mix
SERVER = VllmV1(
    batch_time=BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7, d_prefill=5e-5),
    num_gpu_blocks=4000,
)


def asked(node, load, size, seed=3, level="lightweight", rate=None, **kwargs):
    """Route requests to one instance; return the predictor, its answers and the run."""
    question = Question(describe("normal"), node, num_requests=size, seed=seed).at_load(load)
    table = question.requests
    rate = question.source.rate if rate is None else rate
    predictor = Predictor([node], question.mix, level=level, arrival_rate=rate)
    answers = []

    def ask(view, request):
        found = predictor.predict(None, request, view.time)
        answers.append((found.ttft[0], found.e2el[0], found[0]))
        return 0

    run = route(table, [node], ask, predictor=predictor, capacity=[1.0], **kwargs)
    return predictor, answers, run.samples


class Watcher:
    """Follows an instance by its reports alone, and says how old who ends was."""

    def __init__(self, table, restarts):
        self.state, self.table, self.off = InstanceState(restarts=restarts), table, []

    def enqueue_request(self, instance_id, request_meta, ts):
        self.state.enqueue(request_meta, 0, ts)

    def sync_batch_result(self, instance_id, batch_trace):
        for each in batch_trace.finished:
            if each in self.state.running:
                age = self.state.running.where(each)[0] + 1.0
                self.off.append(age - self.table.decode_length[each])
        self.state.sync(batch_trace, batch_trace.end)


@pytest.mark.parametrize(
    "node",
    [DecodeNode(), DecodeNode(mode="sacrifice", B=None, M_total=3000), SERVER],
    ids=["budget", "sacrifice", "vllm_v1"],
)
def test_the_pattern_of_who_runs_is_that_of_the_engine(node):
    question = Question(describe("normal"), node, num_requests=600, seed=6).at_load(1.1)
    table = question.requests
    watcher = Watcher(table, getattr(node, "mode", None) == "sacrifice")
    route(table, [node], lambda view, request: 0, listeners=[watcher], capacity=[1.0])
    off = np.abs(watcher.off)
    assert off.size > 500
    # where many begin with one batch, a group of them ends between two tokens
    assert np.quantile(off, 0.98) <= 1.0
    assert watcher.state.is_idle and len(watcher.state.running) == 0


@pytest.mark.parametrize(("load", "most"), [(0.8, 1.2), (0.95, 0.9), (1.1, 0.35)])
def test_ttft_of_a_decode_node_comes_true(load, most):
    _, answers, truth = asked(DecodeNode(), load, 700)
    said = np.array([each[0] for each in answers])[150:]
    off = np.abs(said - truth.ttft[150:])
    assert off.mean() < most * truth.ttft[150:].mean()
    # better than to say the mean, by far
    spread = np.abs(truth.ttft[150:] - truth.ttft[150:].mean()).mean()
    assert off.mean() < 0.75 * spread


def test_e2el_of_a_decode_node_is_right_on_average():
    _, answers, truth = asked(DecodeNode(B=None), 0.8, 800)
    said = np.array([each[1] for each in answers])[200:]
    assert said.mean() == pytest.approx(truth.e2el[200:].mean(), rel=0.06)


def test_a_server_that_is_not_full_is_known_to_some_milliseconds():
    _, answers, truth = asked(SERVER, 0.5, 600)
    said = np.array([each[0] for each in answers])[150:]
    off = np.abs(said - truth.ttft[150:])
    assert np.median(off) < 0.15 * np.median(truth.ttft[150:])


def test_shared_forecasts_are_nearly_as_good_and_fewer():
    node = DecodeNode()
    question = Question(describe("normal"), node, num_requests=1500, seed=3)
    question = question.at_rate(4 * 0.9 * question.capacity)
    found = {}
    for level in ("lightweight", "reuse"):
        predictor = Predictor([node] * 4, question.mix, level=level)
        run = route(question.requests, [node] * 4, "predicted-ttft", predictor=predictor)
        found[level] = predictor.marches, run.samples.ttft[150:].mean()
    jsq = route(question.requests, [node] * 4, "jsq").samples.ttft[150:].mean()
    assert found["reuse"][0] < 0.6 * found["lightweight"][0]
    assert found["reuse"][1] < 1.15 * found["lightweight"][1]
    assert found["reuse"][1] < 0.85 * jsq


@pytest.mark.parametrize("load", [0.8, 0.95, 1.1])
def test_bounds_hold_as_often_as_they_say(load):
    _, answers, truth = asked(DecodeNode(), load, 1500, level="reuse")
    for name in ("ttft", "e2el"):
        inside = [
            low <= true <= high
            for (_, _, answer), true in zip(answers[400:], getattr(truth, name)[400:], strict=True)
            for low, high in [getattr(answer, f"{name}_bounds")]
        ]
        assert 0.86 <= np.mean(inside) <= 0.94, name


def test_lost_doubled_and_reordered_reports_are_counted_and_do_no_lasting_harm():
    faults = Faults(lost=0.03, doubled=0.03, reordered=0.03, seed=1)
    predictor, answers, truth = asked(DecodeNode(), 0.8, 800, faults=faults)
    counts = predictor.states[0].counts
    assert counts.duplicate > 5 and counts.late > 5 and counts.lost > 5
    said = np.array([each[0] for each in answers])[200:]
    assert np.isfinite(said).all()
    assert np.median(said) < 2.0 * np.median(truth.ttft[200:])
    assert predictor.states[0].running.total < 60


def test_who_began_unheard_does_not_wait_for_ever():
    node = DecodeNode()
    question = Question(describe("normal"), node, num_requests=1500, seed=4).at_load(0.8)
    predictor = Predictor([node], question.mix)
    faults = Faults(lost=0.2, seed=3)
    table = question.requests
    most = []

    def ask(view, request):
        state = predictor.states[0]
        most.append((len(state.waiting) + len(state.running)) - view.in_system[0])
        return 0

    route(table, [node], ask, predictor=predictor, capacity=[1.0], faults=faults)
    assert predictor.states[0].counts.silent_corrections > 50
    # of those who are thought to be there few are gone, and their number does not grow
    assert np.mean(most[1000:]) < 6 and max(most) < 40
    assert np.mean(most[1000:]) < np.mean(most[200:700]) + 3


def test_an_instance_that_falls_silent_is_stale():
    predictor = Predictor([DecodeNode()], MIX, stale_after=50.0)
    predictor.enqueue_request(0, RequestMeta(1, 50), 0.0)
    assert predictor.predict(0, RequestMeta(2, 50), 10.0)[0].confidence == "unknown"
    assert predictor.predict(0, RequestMeta(2, 50), 100.0)[0].confidence == "stale"


def test_a_batch_that_is_overdue_lets_nobody_in_front_of_those_who_wait_for_it():
    ttft = []
    for now in (1.0, 7.0):  # the batch under way was to end before the latter
        predictor = Predictor([DecodeNode()], MIX, arrival_rate=0.001)
        for k in range(60):
            predictor.enqueue_request(0, RequestMeta(k, 60), 0.01 * k)
        ttft.append(float(predictor.predict(0, RequestMeta(99, 60), now).ttft[0]))
    assert ttft[1] == pytest.approx(ttft[0], rel=0.02) and ttft[0] > 50


def test_a_node_whose_batches_take_no_time_has_no_answer_and_scores_worst():
    still = DecodeNode(batch_time=BatchTimeLaw(d_0=0.0, d_decode=0.0, d_kv=0.0))
    predictor = Predictor([still, DecodeNode()], MIX, arrival_rate=0.1)
    found = predictor.predict(None, RequestMeta(1, 50), 0.0)
    assert found[0].confidence == "failed" and math.isinf(found.ttft[0])
    assert np.isfinite(found.ttft[1])


def test_what_is_not_allowed_is_refused():
    with pytest.raises(ConfigError, match="level"):
        Predictor([DecodeNode()], MIX, level="oracle")
    with pytest.raises(ConfigError, match="instances"):
        Predictor([], MIX)
    with pytest.raises(UnsupportedError, match="SJF"):
        Predictor([DecodeNode(queue_policy="SJF")], MIX)
    with pytest.raises(UnsupportedError, match="priority"):
        Predictor([VllmV1(scheduling_policy="priority")], MIX)
    with pytest.raises(ConfigError, match="arrival_rate"):
        Predictor([DecodeNode()], MIX, arrival_rate=-1.0)
    with pytest.raises(ConfigError, match="stale_after"):
        Predictor([DecodeNode()], MIX, stale_after=-1.0)
    with pytest.raises(ConfigError, match="action_hint"):
        Predictor([DecodeNode()], MIX).predict(0, RequestMeta(1, 50), 0.0, "tpot")
    with pytest.raises(FluidServeError, match="instance 3 is not in the fleet"):
        Predictor([DecodeNode()], MIX).predict(3, RequestMeta(1, 50), 0.0)


def test_risk_is_the_share_that_missed():
    predictor, _, truth = asked(DecodeNode(), 0.95, 1000)
    limit = float(np.quantile(truth.ttft, 0.8))
    now = 1.001 * (truth.e2el.max() + 1e4)
    risk = predictor.predict(0, RequestMeta(-5, 50, slo_ttft=limit), now)[0].slo_risk
    assert risk is not None and 0.0 <= risk < 0.5
    sure = predictor.predict(0, RequestMeta(-5, 50, slo_ttft=1e-6), now)[0].slo_risk
    assert sure == 1.0
    assert predictor.predict(0, RequestMeta(-5, 50), now)[0].slo_risk is None
    both = RequestMeta(-5, 50, slo_ttft=1e-6, slo_e2el=1e-6)
    assert predictor.predict(0, both, now)[0].slo_risk == 1.0
    assert predictor.predict(0, both, now, "ttft")[0].slo_risk is None  # of E2EL nobody was asked


def test_lengths_follow_the_prompt_and_an_estimate():
    model = LengthModel.from_mix(MIX, estimate_error=0.0)
    short, long = (model.class_of(RequestMeta(0, p)) for p in (20, 180))
    assert model.mean[short] == pytest.approx(25, rel=0.1)
    assert model.mean[long] == pytest.approx(90, rel=0.1)
    told = model.class_of(RequestMeta(0, 20, predicted_decode_length=90))
    assert model.mean[told] == pytest.approx(90, rel=0.06)
    vague = LengthModel.from_mix(MIX, estimate_error=1.0)
    told = vague.class_of(RequestMeta(0, 20, predicted_decode_length=90))
    assert 40 < vague.mean[told] < 90
    for row, mean in zip(model.survive, model.mean, strict=True):
        assert row.sum() == pytest.approx(mean)
    with pytest.raises(ConfigError, match="estimate_error"):
        LengthModel.from_mix(MIX, estimate_error=-1.0)


@pytest.mark.parametrize("node", [DecodeNode(), SERVER], ids=["decode_node", "vllm_v1"])
def test_a_fork_of_the_engine_tells_the_truth(node):
    question = Question(describe("normal"), node, num_requests=60, seed=2).at_load(0.9)
    table = question.requests
    whole = simulate(table, node)
    first = table.take(np.arange(59))
    engine = engine_for(first, node)
    at = float(table.arrival_time[59])
    engine.advance(until=float(table.arrival_time[50]))
    found = truth(engine, int(table.prefill_length[59]), int(table.decode_length[59]), at)
    assert found.ttft == whole.requests["first_token_time"][59] - at
    assert found.e2el == whole.requests["completion_time"][59] - at
    alone = simulate(first, node)
    others = whole.requests["completion_time"][:59] - alone.requests["completion_time"]
    assert found.externality == pytest.approx(float(others.sum()), abs=1e-9)
    assert fork(engine).time == engine.time


def test_reports_of_one_batch_twice_change_nothing():
    state = InstanceState()
    for k in range(3):
        state.enqueue(RequestMeta(k, 50), 0, 0.0)
    trace = BatchTrace(0, 1.0, 1.0, 0, 0, started=(0, 1))
    assert state.sync(trace, 1.0) and not state.sync(trace, 1.0)
    assert state.running.total == 2 and list(state.waiting) == [2]
    assert state.counts.duplicate == 1
    state.sync(BatchTrace(4, 5.0, 1.0, 0, 2), 5.0)
    assert state.counts.lost == 3
    assert state.running.where(0)[0] == 5.0  # the lost batches made them older too
    state.sync(BatchTrace(2, 3.0, 1.0, 0, 2, finished=(0,)), 6.0)
    assert state.counts.late == 1 and state.running.total == 1
    assert state.counts.lost == 2  # it is not lost any more
    state.sync(BatchTrace(2, 3.0, 1.0, 0, 2, finished=(0,)), 6.0)
    assert state.counts.lost == 2 and state.running.total == 1


def test_who_began_in_a_late_report_is_as_old_as_if_it_had_come_in_its_turn():
    states = InstanceState(), InstanceState()
    traces = [
        BatchTrace(0, 1.0, 1.0, 9, 0, started=(0,)),
        BatchTrace(1, 2.0, 1.0, 9, 1, started=(1,)),
        BatchTrace(2, 3.0, 1.0, 0, 2),
    ]
    for state, order in zip(states, ((0, 1, 2), (0, 2, 1)), strict=True):
        for k in range(2):
            state.enqueue(RequestMeta(k, 9), 0, 0.0)
        for number in order:
            state.sync(traces[number], 3.0)
    told, late = states
    assert told.is_sure and not late.is_sure
    assert late.counts.late == 1 and late.counts.lost == 0
    for name in ("waiting", "waiting_tokens", "boundary", "in_system"):
        assert getattr(told, name) == getattr(late, name)
    assert [told.running.where(k) for k in range(2)] == [late.running.where(k) for k in range(2)]


def test_requests_of_thousands_become_few_groups():
    table = RequestTable.validated(np.zeros(3000), np.full(3000, 5), np.full(3000, 50))
    state = InstanceState()
    for k in range(len(table)):
        state.enqueue(RequestMeta(k, 5), k % 3, 0.0)
        state.sync(BatchTrace(k, float(k + 1), 1.0, 0, k, started=(k,)), float(k + 1))
    assert state.running.total == 3000 and len(state.running.rows) <= 1024
    ages = state.running.rows[:, 0] @ state.running.rows[:, 1]
    assert ages == pytest.approx(3000 * 3001 / 2, rel=1e-9)
    for k in range(3000):
        assert state.running.end(k)
    assert state.running.total == pytest.approx(0.0, abs=1e-9)


ALIKE = RequestMix.from_lengths([100, 20, 600], [40, 40, 40])
"""Answers all as long, so that nothing is left to chance."""


def first_token_beside(arrivals, prompts):
    """Return the predicted TTFT of the last of some requests to one node, and the true one."""
    node = DecodeNode(B=1000, M_total=100_000)
    table = RequestTable.validated(arrivals, prompts, [40] * len(prompts))
    predictor = Predictor([node], ALIKE, level="lightweight", arrival_rate=0.0)
    said = []

    def ask(view, request):
        said.append(predictor.predict(None, request, view.time)[0].ttft)
        return 0

    run = route(table, [node], ask, predictor=predictor, capacity=[1.0])
    return said[-1], run.samples.ttft[-1]


@pytest.mark.parametrize("prompt", [20, 90, 350, 700])
def test_a_prompt_waits_for_the_room_that_it_takes_itself(prompt):
    # eight hold 880 of 1,000 tokens when it comes, and end together
    said, true = first_token_beside([0.0] * 8 + [15.5], [100] * 8 + [prompt])
    batch = 1.9
    assert said == pytest.approx(true, abs=1.5 * batch)
    assert (true > 20 * batch) == (prompt > 120)


def test_a_prompt_sent_in_this_batch_holds_up_who_comes_behind_it():
    behind, true = first_token_beside([0.0] * 8 + [15.5, 15.6], [100] * 8 + [600, 20])
    assert behind == pytest.approx(true, abs=3.0) and true > 30.0


def test_a_prompt_that_no_batch_has_room_for_never_gets_a_token():
    node = DecodeNode(B=1000, M_total=100_000)
    predictor = Predictor([node], ALIKE, arrival_rate=0.0)
    assert np.isfinite(predictor.predict(None, RequestMeta(1, 600), 0.0).ttft[0])
    never = predictor.predict(None, RequestMeta(1, 2000), 0.0)[0]
    assert never.ttft == math.inf and never.confidence == "failed"


JUMPING = VllmV1(
    batch_time=BatchTimeLaw(
        d_0=0.02,
        d_decode=4e-5,
        d_kv=2e-7,
        d_mixed_decode=4e-5,
        d_prefill_attention=3e-9,
        d_prefill_context=1e-6,
        d_prefill_table=((16.0, 0.02), (256.0, 0.03), (272.0, 0.04), (2048.0, 0.2)),
    ),
    num_gpu_blocks=4000,
    max_num_batched_tokens=2048,
)


@pytest.mark.parametrize(
    "prompts", [[10], [230], [270], [900], [2038], [5500], [2500, 40], [700, 20, 9]]
)
@pytest.mark.parametrize("ahead", [True, False])
def test_prompts_cost_a_server_what_the_law_of_its_steps_says(prompts, ahead):
    from dataclasses import replace

    server, size = replace(JUMPING, async_scheduling=ahead), len(prompts)
    at = [1.0 + 1e-4 * k for k in range(size)]
    table = RequestTable.validated([0.0] * 10 + at, [100] * 10 + prompts, [200] * (10 + size))
    mix = RequestMix.from_lengths([100, 100, *prompts], [200] * (2 + size))
    predictor = Predictor([server], mix, level="lightweight", arrival_rate=0.0)
    said = []

    def ask(view, request):
        said.append(predictor.predict(None, request, view.time)[0].ttft)
        return 0

    run = route(table, [server], ask, predictor=predictor, capacity=[1.0])
    assert said[-1] == pytest.approx(run.samples.ttft[-1], rel=0.015)


def test_what_is_left_for_those_behind_is_the_ttft_of_larger_prompts():
    predictor = Predictor([DecodeNode(), SERVER], MIX, arrival_rate=0.0)
    for k in range(40):
        predictor.enqueue_request(k % 2, RequestMeta(k, 60), 0.0)
    asked = RequestMeta(99, 60)
    found = predictor.predict(None, asked, 1.0, "behind")
    for i, of in enumerate((MIX.mean_prefill, predictor._forecasters[1].unit)):
        behind = 0.0
        for number in (1.0, 2.0, 4.0):
            prompt = 60 + number * of
            low, high = (
                predictor.predict(i, RequestMeta(99, each), 1.0, "ttft").ttft[0]
                for each in (math.floor(prompt), math.ceil(prompt))
            )
            behind += low + (high - low) * (prompt - math.floor(prompt))
        assert found.behind[i] == pytest.approx(behind, rel=0.02)
    whole, first = (predictor.predict(None, asked, 1.0, each) for each in ("all", "ttft"))
    assert found.ttft.tolist() == first.ttft.tolist()
    assert whole.behind.tolist() == pytest.approx(found.behind.tolist())
    # nobody reads a number that was not asked for
    assert np.isnan([*first.behind, *first.e2el, *first.externality, *found.e2el]).all()
    one = first[0]
    assert one.e2el is None and np.isnan([one.tpot, one.externality]).all()


def test_what_is_expected_in_the_prefix_cache_is_not_computed():
    ttft = []
    for hit in (0, 55):
        predictor = Predictor([SERVER], MIX, arrival_rate=0.0)
        for k in range(30):
            predictor.enqueue_request(0, RequestMeta(k, 60, prefix_hit=hit), 0.0)
        ttft.append(predictor.predict(None, RequestMeta(99, 60), 0.0).ttft[0])
    assert ttft[1] < ttft[0] - 30 * 50 * 5e-5


def test_a_forecast_for_first_tokens_is_shorter_and_says_the_same_of_them():
    made = [Predictor([DecodeNode(), SERVER], MIX, arrival_rate=0.1) for _ in range(2)]
    for predictor in made:
        for k in range(60):
            predictor.enqueue_request(k % 2, RequestMeta(k, 60), 0.0)
    asked = RequestMeta(99, 60)
    short = made[0].predict(None, asked, 1.0, "ttft").ttft.tolist()
    whole = made[1].predict(None, asked, 1.0)
    assert short == pytest.approx(whole.ttft.tolist())
    assert (made[0].forecasts[1][:, 0] < made[1].forecasts[1][:, 0]).any()
    # who asks for more gets it from a longer one
    assert made[0].predict(None, asked, 1.0).e2el.tolist() == pytest.approx(whole.e2el.tolist())
