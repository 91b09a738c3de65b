"""A predictor whose instances tell seldom or never moves its belief on by its own forecasts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from discrete import simulate
from ode import DECIDED, DURATION, FORECAST_ROWS, REACH, START
from scheduling import (
    BatchTrace,
    Predictor,
    RequestMeta,
    SeldomToldPredictor,
    Signals,
    route,
    silence,
)
from scheduling.drift import Beliefs
from scheduling.experiment import Routing, row_of
from scheduling.instance_state import MOST_GAPS
from scheduling.seldom import BACK
from scheduling.silence import follow
from serving import BatchTimeLaw, DecodeNode, RequestTable, VllmV1
from studies import Question
from workload import describe

MIX = describe("normal").mix
SERVER = VllmV1(
    batch_time=BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7, d_prefill=5e-5),
    num_gpu_blocks=4000,
)
ALIKE = RequestTable.validated(np.zeros(40), np.full(40, 30), np.full(40, 50))


def test_tokens_come_with_the_batches_that_reach_a_request():
    curve = np.zeros((FORECAST_ROWS, 3))
    curve[START] = curve[DECIDED] = 0.0, 2.0, 4.0
    curve[DURATION], curve[REACH] = 2.0, (1.0, 5.0, 1.5)
    number, at = np.array([1.0, 3.0, 4.0]), np.array([-math.inf, -math.inf, 3.0])
    for again, expected in ((False, [16.0, 2.0, 0.0]), (True, [16.0, 0.0, 0.0])):
        age, ever, taken = np.array([10.0, 0.0, 0.0]), np.array([10.0, 0.0, 0.0]), np.zeros(3)
        found = follow(curve, 3, 2, again, 6.5, number, at, age, ever, taken)
        assert found == (6, 6.0, 1.0)
        assert age.tolist() == expected
        assert ever.tolist() == [16.0, 2.0, 0.0] and taken.tolist() == [6.0, 2.0, 0.0]
    age = np.zeros(3)
    assert follow(curve, 3, 2, False, 2.9, number, at, age, np.zeros(3), np.zeros(3))[0] == 2
    assert age.tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize("until", [3.0, 20.0, 41.0])
def test_where_lengths_are_alike_the_belief_is_what_the_engine_does(until):
    node = DecodeNode(B=None, M_total=100_000)
    predictor = SeldomToldPredictor([node], ALIKE.mix(), arrival_rate=0.0)
    for k in range(len(ALIKE)):
        predictor.enqueue_request(0, RequestMeta(k, 30), 0.0)
    batches = simulate(ALIKE, node).batches["time"]
    done = int((batches <= until).sum())
    state = predictor.believed(0, until)
    assert state.running.total == pytest.approx(40) and not state.waiting
    assert state.running.rows[:, 1] == pytest.approx(done, abs=1)
    assert state.boundary == pytest.approx(batches[done - 1], rel=0.03)


def test_an_instance_that_never_tells_is_empty_in_the_end_and_a_plain_predictor_never_knows():
    for kind in (SeldomToldPredictor, Predictor):
        predictor = kind([DecodeNode()] * 2, MIX, arrival_rate=0.001)
        for k in range(60):
            predictor.enqueue_request(0, RequestMeta(k, 60), 0.1 * k)
        ttft, there = [], []
        for now in (7.0, 60.0, 300.0, 4000.0):
            ttft.append(predictor.predict(None, RequestMeta(99, 60), now).ttft)
            there.append(predictor.in_system(now)[0])
        assert ttft[0][0] > 5 * ttft[0][1]
        if kind is Predictor:
            assert there == [60.0] * 4
        else:
            assert ttft[3][0] == pytest.approx(ttft[3][1], rel=0.01)
            assert (np.diff(there[:3]) < 0).all() and there[3] == 0.0


def test_who_has_left_unheard_costs_no_memory_and_changes_no_answer(monkeypatch):
    """As many as are believed to be there are followed by name, and the answers are the same."""
    said, followed = [], []
    for is_followed in (False, True):
        if is_followed:  # everyone for ever
            monkeypatch.setattr(silence, "SURE", -1.0)
            monkeypatch.setattr(SeldomToldPredictor, "_leave_unheard", lambda self, i: None)
        predictor = SeldomToldPredictor([DecodeNode()], MIX)
        most = 0
        for k in range(1500):
            predictor.enqueue_request(0, RequestMeta(k, 60), 4.0 * k)
            state = predictor.states[0]
            most = max(most, len(state.waiting), len(state.fresh) // 2, len(state.queue))
        told = predictor.predict(0, RequestMeta(10**6, 60), 6010.0)
        said.append((told.ttft[0], told.e2el[0], predictor.in_system(6010.0)[0]))
        followed.append(most)
        assert predictor.left_unheard + len(state.waiting) == 1500
        belief = predictor.beliefs[0]
        assert set(belief.running._group_of) | set(belief.waiting) <= set(state.waiting)
    assert said[0] == said[1]
    there = said[0][2]
    assert 5 < there < 200 and followed[0] < 6 * there < followed[1]


class Some:
    """Hands every ``every``-th report on to a predictor; 0 hands on none."""

    def __init__(self, predictor, every):
        self._predictor, self._every = predictor, every
        self.predict, self.enqueue_request = predictor.predict, predictor.enqueue_request

    def sync_batch_result(self, instance_id, batch_trace):
        if self._every and batch_trace.batch_id % self._every == 0:
            self._predictor.sync_batch_result(instance_id, batch_trace)


@pytest.mark.parametrize("every", [5, 40])
def test_reports_that_come_now_and_then_are_better_than_none(every):
    """What happened in between is believed as forecast, and counts set it right."""
    question = Question(describe("normal"), DecodeNode(), num_requests=900, seed=3).at_load(0.8)
    off, drift = {}, {}
    for each in (1, every, 0):
        predictor = SeldomToldPredictor([DecodeNode()], question.mix)
        beliefs, said = Beliefs(predictor), []

        def ask(view, request, predictor=predictor, said=said):
            said.append(predictor.predict(None, request, view.time).ttft[0])
            return 0

        run = route(
            question.requests, [DecodeNode()], ask, predictor=Some(predictor, each),
            capacity=[1.0], listeners=[beliefs],
        )  # fmt: skip
        off[each] = np.abs(np.array(said) - run.samples.ttft)[200:].mean()
        drift[each] = beliefs.drift(run)[20:].mean()
    assert drift[1] < 0.1 and off[1] < off[every] < 1.15 * off[0]
    assert drift[every] < 1.1 * drift[0] < 2.5


def test_a_late_report_is_of_the_time_that_it_tells_of():
    """It gives nobody the same tokens twice, and long ago is not now."""
    for behind, has_counts in ((3, True), (3, False), (20, True), (20, False)):
        predictor = SeldomToldPredictor([DecodeNode(B=None, M_total=100_000)], ALIKE.mix(),
                                        arrival_rate=0.0)  # fmt: skip
        for k in range(len(ALIKE)):
            predictor.enqueue_request(0, RequestMeta(k, 30), 0.0)
        before = predictor.believed(0, 40.0)
        duration, boundary = before.last_duration, before.boundary
        (age,) = set(before.running.rows[:, 1].tolist())
        end = boundary - behind * duration
        trace = BatchTrace(200, end, duration, 0, 40, started=(0, 1))
        if has_counts:
            trace = replace(trace, num_waiting=0, num_running=40)
        predictor.sync_batch_result(0, trace)
        state = predictor.states[0]
        again = predictor.believed(0, 40.0)
        assert again.running.total == pytest.approx(40)
        assert again.running.rows[:, 1] == pytest.approx(age, abs=2)
        goes_back = has_counts and behind < BACK
        assert state.boundary == pytest.approx(end if goes_back else boundary)


def test_counts_of_a_report_set_a_belief_right():
    predictor = SeldomToldPredictor([DecodeNode()], MIX)
    for k in range(12):
        predictor.enqueue_request(0, RequestMeta(k, 60), 0.5 * k)
    state = predictor.states[0]
    trace = BatchTrace(30, 40.0, 1.2, 0, 6, finished=(0,), num_waiting=0, num_running=7)
    predictor.sync_batch_result(0, trace)
    assert state.in_parts and state.running.total == pytest.approx(7.0) and not state.waiting
    assert state.batch_id == 30 and state.counts.silent_corrections > 0
    predictor.enqueue_request(0, RequestMeta(50, 60), 41.0)
    trace = BatchTrace(2**50, 60.0, 1.2, 0, 0, num_waiting=0, num_running=0)
    predictor.sync_batch_result(0, trace)
    assert state.is_idle and len(state.running) == 0 and len(state.gaps) == MOST_GAPS
    assert state.counts.lost == 2**50 - 31
    for k in range(51, 54):
        predictor.enqueue_request(0, RequestMeta(k, 60), 70.0)
    trace = BatchTrace(2**50 + 9, 70.1, 0.1, 0, 0, num_waiting=1, num_running=0)
    predictor.sync_batch_result(0, trace)
    assert list(state.waiting) == [53] and state.in_system == 1.0


def test_a_request_that_is_told_twice_is_there_once():
    predictor = SeldomToldPredictor([DecodeNode()], MIX)
    for now in (0.0, 0.0, 8.0):
        predictor.enqueue_request(0, RequestMeta(1, 60), now)
    assert predictor.beliefs[0].in_system <= 1.0 and predictor.states[0].counts.duplicate == 2


def test_a_report_is_believed():
    predictor = SeldomToldPredictor([DecodeNode()], MIX, arrival_rate=0.1)
    for k in range(20):
        predictor.enqueue_request(0, RequestMeta(k, 60), 0.0)
    predictor.predict(0, RequestMeta(99, 60), 50.0)
    assert predictor.in_system(50.0)[0] != round(predictor.in_system(50.0)[0])
    trace = BatchTrace(0, 3.0, 3.0, 0, 0, started=tuple(range(15)), finished=(3, 4))
    predictor.sync_batch_result(0, trace)
    assert predictor.in_system(3.0)[0] == 18.0
    predictor.predict(0, RequestMeta(99, 60), 50.0)
    assert 0.0 < predictor.in_system(50.0)[0] < 18.0


@pytest.mark.parametrize("node", [DecodeNode(), SERVER], ids=["decode_node", "vllm_v1"])
def test_without_any_report_prediction_is_better_than_turns_and_drifts_no_further(node):
    question = Question(describe("normal"), node, num_requests=900)
    rows = {}
    for period in (None, math.inf):
        routing = Routing(
            question, (node,) * 3, ("round-robin", "predicted-ttft"), (0.85,),
            signals=Signals(period),
        )  # fmt: skip
        rows[period] = {name: row_of(routing, (0.85, 1, name)) for name in routing.policies}
    told, never = rows[None]["predicted-ttft"], rows[math.inf]["predicted-ttft"]
    turns = rows[math.inf]["round-robin"]["mean_ttft"]
    assert told["mean_ttft"] <= 1.1 * never["mean_ttft"]
    # requests that are alike on a server that is hardly ever full are dealt out best in turns
    assert never["mean_ttft"] < (1.1 if node is SERVER else 0.8) * turns
    assert told["drift"] < 0.2 and never["applied"] == 0
    # those who left unheard are not believed to be there for ever
    assert never["drift"] < 4 and never["drift_at_end"] < 2 * never["drift"] + 1


def test_to_ask_about_a_far_time_changes_nothing():
    predictor, asked = SeldomToldPredictor([DecodeNode()], MIX), RequestMeta(999, 50)
    for i in range(60):
        predictor.enqueue_request(0, RequestMeta(i, 100), 0.01 * i)
    before = predictor.predict(0, asked, 20.0).ttft[0]
    assert predictor.predict(0, asked, 1.7e12).ttft[0] < 0.1 * before  # all have left by then
    assert predictor.predict(0, asked, 20.0).ttft[0] == pytest.approx(before, rel=0.02)
    assert len(predictor.states[0].waiting) == 60 and predictor.left_unheard == 0


def test_an_instance_that_never_tells_outlives_a_clock_that_was_ahead_once():
    predictor, asked = SeldomToldPredictor([DecodeNode()], MIX), RequestMeta(999, 50)
    predictor.enqueue_request(0, RequestMeta(0, 100), 1.7e12)
    for i in range(1, 60):
        predictor.enqueue_request(0, RequestMeta(i, 100), 0.01 * i)
    assert predictor.predict(0, asked, 20.0).ttft[0] > 20.0
    assert predictor.predict(0, asked, 5000.0).ttft[0] < 10.0
