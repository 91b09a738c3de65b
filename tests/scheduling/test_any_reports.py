"""Whatever instances report, a state is one of requests: nothing negative, nobody twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling import (
    BatchTrace,
    CorrectedPredictor,
    Predictor,
    RequestMeta,
    SeldomToldPredictor,
    route,
)
from scheduling.instance_state import InstanceState
from serving import BatchTimeLaw, ConfigError, DecodeNode, RequestTable, VllmV1
from workload import describe

MIX = describe("normal").mix
SERVER = VllmV1(
    batch_time=BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7, d_prefill=5e-5),
    num_gpu_blocks=4000,
)

IDS = st.integers(0, 7)
NAMES = st.lists(IDS, max_size=4).map(tuple)
COUNTS = st.none() | st.sampled_from([0, 1, 4, 10**6])
LATER = st.sampled_from([0.0, 0.01, 1.0, 30.0, -5.0, 1000.0])
SENT = st.tuples(st.just("sent"), IDS, st.sampled_from([0, 1, 50, 600, 100_000]), LATER)
ASKED = st.tuples(st.just("asked"), IDS, st.sampled_from([0, 1, 600, 100_000]), LATER)
TOLD = st.tuples(
    st.just("told"),
    st.builds(
        dict,
        prefill_len=st.sampled_from([0, 10, 600, 10**7]),
        decode_len=st.sampled_from([0, 1, 5, 10**6]),
        duration=st.sampled_from([0.0, 0.02, 1.0]),
        kv_used=st.none() | st.sampled_from([0.0, 500.0, 1e12]),
        num_waiting=COUNTS,
        num_running=COUNTS,
        **dict.fromkeys(("finished", "started", "preempted", "resumed", "cancelled"), NAMES),
    ),
    st.sampled_from([1, 1, 1, 1, 0, -1, -3, 2, 5, 1500]),
    LATER,
)


def check(state, is_reported=True):
    """Hold a state against what every state of requests is."""
    running, queue = state.running, state.queue
    assert np.isfinite(running.rows).all() and (running.rows >= 0.0).all()
    assert running.rows[:, 0].sum() == pytest.approx(running.total)
    assert queue.rows[:, 0].sum() == pytest.approx(queue.total)
    prompts = sum(each.prompt for each in state.waiting.values())
    assert state.waiting_tokens == prompts
    assert 0.0 <= state.computed_ahead <= prompts
    again = sum(prompt + age for age, _, _, prompt in state.stopped.values())
    assert 0.0 <= state.computed_again <= again + 1e-9
    assert (state.again_tokens() >= 0.0).all()
    places = [set(state.waiting), set(running._group_of), set(state.stopped)]
    assert sum(map(len, places)) == len(set().union(*places))
    assert set(state.fresh) <= places[0]
    if is_reported and not state.in_parts:
        assert running.total == len(running)
        assert queue.total + len(state.fresh) == len(state.waiting)


@settings(max_examples=150, deadline=None)
@given(st.lists(SENT | TOLD, max_size=40), st.booleans())
def test_a_state_is_one_of_requests_whatever_is_told(messages, restarts):
    state, now, batch = InstanceState(restarts=restarts), 0.0, 0
    for what, *about, later in messages:
        now += later
        if what == "sent":
            state.enqueue(RequestMeta(*about), 1, now)
        else:
            batch = max(0, batch + about[1])
            state.sync(BatchTrace(batch, now, **about[0]), now)
        check(state)


@pytest.mark.parametrize("kind", [Predictor, SeldomToldPredictor])
@pytest.mark.parametrize("node", [DecodeNode(mode="sacrifice"), SERVER], ids=["node", "server"])
@settings(max_examples=25, deadline=None)
@given(st.lists(SENT | TOLD | ASKED, max_size=30))
def test_an_answer_is_a_time_whatever_was_told(kind, node, messages):
    told = kind([node], MIX)
    predictor, now, batch = CorrectedPredictor(told), 0.0, 0
    for what, *about, later in messages:
        now += later
        if what == "sent":
            predictor.enqueue_request(0, RequestMeta(*about), now)
        elif what == "told":
            batch = max(0, batch + about[1])
            predictor.sync_batch_result(0, BatchTrace(batch, now, **about[0]))
        else:
            for found in predictor.predict(None, RequestMeta(*about), now):
                assert found.e2el is not None and 0.0 <= found.ttft <= found.e2el
        check(told.states[0])
        check(told.beliefs[0], is_reported=False)


def test_who_is_named_twice_is_there_once():
    state = InstanceState()
    for i in range(3):
        state.enqueue(RequestMeta(i, 10), 1, 0.0)
    state.sync(BatchTrace(0, 1.0, 1.0, 30, 0, started=(0, 0, 1, 9, 9)), 1.0)
    assert len(state.running) == state.running.total == 3  # 9 was never announced
    state.sync(BatchTrace(1, 2.0, 1.0, 0, 0, preempted=(0, 0)), 2.0)
    state.enqueue(RequestMeta(0, 10), 1, 2.5)  # it is there, if evicted
    assert state.in_system == 4
    # an engine may tell of the first token after an eviction as of any first token
    state.sync(BatchTrace(2, 3.0, 1.0, 11, 3, started=(0,)), 3.0)
    assert 0 in state.running and not state.stopped
    state.sync(BatchTrace(3, 4.0, 1.0, 0, 3, finished=(0, 0, 1, 9), cancelled=(2, 2)), 4.0)
    assert state.is_idle


def test_who_gives_up_takes_nothing_that_was_computed_of_others():
    state = InstanceState()
    for i, prompt in enumerate((100, 40, 60)):
        state.enqueue(RequestMeta(i, prompt), 1, 0.0)
    state.sync(BatchTrace(0, 1.0, 1.0, 50, 0), 1.0)
    state.sync(BatchTrace(1, 2.0, 1.0, 0, 0, cancelled=(2,)), 2.0)
    assert state.waiting_size(1.0) == 50.0 + 40.0
    state.sync(BatchTrace(2, 3.0, 1.0, 0, 0, cancelled=(0,)), 3.0)
    assert state.waiting_size(1.0) == 40.0


def test_more_computed_than_waits_is_not_taken_off_who_comes_later():
    state = InstanceState()
    state.enqueue(RequestMeta(0, 100), 1, 0.0)
    state.sync(BatchTrace(0, 1.0, 1.0, 10**7, 0), 1.0)
    state.enqueue(RequestMeta(1, 70), 1, 1.5)
    assert state.waiting_size(1.0) == 70.0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("wrong", [NAN, INF, -INF, -1])
@pytest.mark.parametrize(
    "field", ["prefill_length", "prefix_hit", "predicted_decode_length", "slo_ttft", "slo_e2el"]
)
def test_a_request_of_no_numbers_is_refused(field, wrong):
    if field.startswith("slo") and wrong == INF:
        assert RequestMeta(1, 50, slo_ttft=INF).slo_ttft == INF  # a promise that is always kept
        return
    with pytest.raises(ConfigError, match=field):
        RequestMeta(**{"request_id": 1, "prefill_length": 50, field: wrong})


def test_no_more_is_found_than_the_prompt_has():
    with pytest.raises(ConfigError, match="0 to prefill_length = 50"):
        RequestMeta(1, 50, prefix_hit=51)


@pytest.mark.parametrize("wrong", [NAN, INF, -INF, -1])
@pytest.mark.parametrize(
    "field",
    ["batch_id", "end", "duration", "prefill_len", "decode_len", "num_waiting", "num_running",
     "kv_used"],
)  # fmt: skip
def test_a_report_of_no_numbers_is_refused(field, wrong):
    known = dict(batch_id=0, end=1.0, duration=1.0, prefill_len=0, decode_len=0)
    if field == "end" and wrong == -1:
        assert BatchTrace(**known | {"end": -1.0}).end == -1.0
        return
    with pytest.raises(ConfigError, match=field):
        BatchTrace(**known | {field: wrong})


@pytest.mark.parametrize("kind", [Predictor, SeldomToldPredictor])
@pytest.mark.parametrize("now", [NAN, INF, -INF])
def test_a_time_that_is_none_is_refused_and_changes_nothing(kind, now):
    predictor, asked = CorrectedPredictor(kind([DecodeNode()], MIX)), RequestMeta(9, 50)
    predictor.enqueue_request(0, RequestMeta(1, 50), 0.0)
    before = predictor.predict(0, asked, 1.0).ttft[0]
    for call in (
        lambda: predictor.enqueue_request(0, RequestMeta(2, 50), now),
        lambda: predictor.predict(0, asked, now),
        lambda: predictor.sync_batch_result(0, BatchTrace(0, 1.0, 1.0, 0, 0), now),
    ):
        with pytest.raises(ConfigError, match="ts"):
            call()
    assert predictor.predict(0, asked, 1.0).ttft[0] == before


@pytest.mark.parametrize("capacity", [[1.0], [1.0, NAN], [1.0, 0.0], [1.0, INF], [1.0, 1.0, 1.0]])
def test_capacities_that_are_none_are_refused(capacity):
    requests = RequestTable.validated([0.0, 1.0], [10, 20], [5, 5])
    with pytest.raises(ConfigError, match="capacity"):
        route(requests, [DecodeNode()] * 2, "jsq-capacity", capacity=capacity)


def test_steps_take_time_though_an_instance_says_that_it_holds_nothing():
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-5, d_prefill=5e-5)
    predictor = Predictor([VllmV1(batch_time=law, num_gpu_blocks=40_000)], MIX)
    for i in range(200):
        predictor.enqueue_request(0, RequestMeta(i, 50), 0.0)
    predictor.sync_batch_result(0, BatchTrace(0, 1.0, 1.0, 10_000, 0, started=tuple(range(200))))
    for k in range(1, 100):
        report = BatchTrace(k, 1.0 + k, 1.0, 0, 200, num_waiting=0, num_running=200, kv_used=0.0)
        predictor.sync_batch_result(0, report)
    found = predictor.predict(0, RequestMeta(999, 50), 100.5)[0]
    curves, about = predictor.forecasts
    steps = int(about[0, 0])
    assert steps > 1 and (curves[0, 1, :steps] > 0.0099).all()
    assert (np.diff(curves[0, 0, :steps]) > 0.0).all()
    assert found.tpot > 0.0 and found.e2el > found.ttft > 0.0
