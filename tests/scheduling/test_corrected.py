"""A corrector of the predictor: it mends a law that is off, and leaves alone one that is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduling import BatchTrace, CorrectedPredictor, Predictor, RequestMeta, route
from scheduling.residuals import LARGEST
from serving import BatchTimeLaw, DecodeNode
from studies import Question
from workload import describe

NODE = DecodeNode()
SLOW = replace(NODE, batch_time=BatchTimeLaw(d_0=1.4, d_decode=0.0014, d_kv=0.0014))


def errors(true, size=900, load=0.6, instances=1):
    """Return mean errors of TTFT and E2EL, plain and corrected, of a predictor that knows NODE."""
    question = Question(describe("normal"), true, num_requests=size, seed=4)
    question = question.at_load(load * instances)
    plain = Predictor([NODE] * instances, question.mix, arrival_rate=question.source.rate)
    corrected = CorrectedPredictor(plain)
    said, row = np.zeros((2, size, 2)), np.arange(size)

    def ask(view, request):
        better = corrected.predict(None, request, view.time)
        first = better.plain
        chosen = request.request_id % instances
        for k, each in enumerate((first, better)):
            said[k, request.request_id] = each.ttft[chosen], each.e2el[chosen]
        return chosen

    run = route(question.requests, [true] * instances, ask, predictor=corrected, capacity=[1.0])
    truth = np.column_stack([run.samples.ttft, run.samples.e2el])
    half = row >= size // 2
    return np.abs(said - truth)[:, half].mean(axis=1), corrected


def test_a_law_that_is_too_fast_is_mended():
    off, corrected = errors(SLOW)
    assert (off[1] < 0.8 * off[0]).all()
    assert corrected.factors[1, 0].max() == pytest.approx(1.4, rel=0.15)
    for latency in ("ttft", "e2el"):
        known = [each for each in corrected.corrections() if each.latency == latency]
        used = [each for each in known if each.is_on]
        assert used and {each.factor for each in known if not each.is_on} <= {1.0}
        assert all(each.held_out_error_corrected < each.held_out_error for each in used)


def test_a_law_that_is_right_is_left_alone():
    off, corrected = errors(NODE)
    assert (off[1] < 1.05 * off[0]).all()
    assert (np.abs(corrected.factors - 1.0) < 0.25).all()


def test_a_factor_has_bounds_and_bounds_of_answers_go_with_it():
    far = replace(NODE, batch_time=BatchTimeLaw(d_0=9.0, d_decode=0.009, d_kv=0.009))
    _, corrected = errors(far, size=400)
    assert corrected.factors.max() <= LARGEST
    now = 1e6
    plain = corrected.predictor.predict(None, RequestMeta(10**6, 60), now)[0]
    better = corrected.predict(None, RequestMeta(10**6, 60), now)[0]
    factor = corrected.factors[1, 0, 0]
    assert factor > 1.2 and better.e2el == pytest.approx(factor * plain.e2el)
    assert better.externality == plain.externality


def test_only_requests_that_were_sent_and_asked_for_teach():
    corrected = CorrectedPredictor(Predictor([NODE], describe("normal").mix))
    corrected.predict(None, RequestMeta(1, 60), 0.0)
    corrected.enqueue_request(0, RequestMeta(2, 60), 0.0)
    assert not corrected._open
    corrected.predict(None, RequestMeta(3, 60), 0.0, "ttft")
    corrected.enqueue_request(0, RequestMeta(3, 60), 0.0)
    assert corrected._open[3].plain[1] is None and corrected.corrections() == []
    for number in range(2):  # doubled, it teaches once
        corrected.sync_batch_result(0, BatchTrace(number, 1.0, 1.0, 0, 0, started=(2, 3)))
    (learnt,) = corrected.corrections()
    assert (learnt.latency, learnt.regime, learnt.measured) == ("ttft", "queued", 1)
    assert not learnt.is_on and learnt.factor == 1.0
    corrected.forget_instance(0)
    assert not corrected._open


def test_bounds_and_risks_are_those_of_the_corrected_answers():
    """A risk by the ratios of plain answers would count the factor twice."""
    _, corrected = errors(SLOW, size=1500)
    record = corrected.predictor.record
    ratios = np.array(record.e2el._off)[-500:]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.12)
    found = corrected.predict(None, RequestMeta(10**6, 60, slo_e2el=1e-9), 1e6)[0]
    assert found.slo_risk == 1.0
    fair = corrected.predict(None, RequestMeta(10**6, 60, slo_e2el=found.e2el), 1e6)[0]
    assert fair.slo_risk is not None and 0.3 < fair.slo_risk < 0.7
