"""The three operations over HTTP say what the predictor says, and refuse the rest in one line."""

from __future__ import annotations

import json
import math

import pytest
from toy_service import batch, client_of, request, sent, service_of

from scheduling import BatchTrace, Predictor, RequestMeta, SeldomToldPredictor
from serving import SolveError


def test_the_service_says_what_the_predictor_says(client):
    other = service_of().predictor
    for number in range(6):
        done = client.post("/v1/enqueue_request", json=sent(number, number % 2, 0.001 * number))
        assert done.status_code == 200 and done.json() == {"accepted": 1}
        other.enqueue_request(number % 2, RequestMeta(number, 60), 0.001 * number)
    told = client.post("/v1/sync_batch_result", json=batch(0, end=0.02, started=[0, 2]))
    assert told.json() == {"applied": 1, "duplicate": 0, "late": 0, "lost": 0, "unknown": 0}
    other.sync_batch_result(0, BatchTrace(0, 0.02, 0.01, 0, 1, started=(0, 2)))
    done = client.post("/v1/predict", json={"request_meta": request(9, 20), "ts": 0.025})
    assert done.status_code == 200 and done.json()["time_unit"] == "s"
    expected = other.predict(None, RequestMeta(9, 20), 0.025)
    for found, each in zip(done.json()["predictions"], expected, strict=True):
        assert (found["request_id"], found["instance_id"]) == (9, each.instance_id)
        assert (found["ttft"], found["e2el"]) == (each.ttft, each.e2el)
        assert found["e2el_bounds"] == each.e2el_bounds
        assert found["confidence"] == each.confidence == "unknown"
        assert found["externality"] == each.externality
        assert found["tpot"] == each.tpot > 0.009


def test_lists_are_taken_whole(client, service):
    done = client.post("/v1/enqueue_request", json=[sent(k, k % 2) for k in range(10)])
    assert done.json() == {"accepted": 10}
    done = client.post("/v1/enqueue_request", json=[sent(11), sent(12, instance=2)])
    assert done.status_code == 404 and "0 to 1" in done.json()["error"]
    assert 11 not in service.predictor.states[0].waiting  # all of a list, or none
    reports = [batch(0, end=0.1, started=[0, 2]), batch(0, 1, end=0.1), batch(0, end=0.1)]
    told = client.post("/v1/sync_batch_result", json=reports).json()
    assert (told["applied"], told["duplicate"]) == (2, 1)
    ask = {"request_meta": [request(k) for k in (20, 21)], "instance_id": [1], "ts": 0.1}
    found = client.post("/v1/predict", json=ask).json()["predictions"]
    assert [(each["request_id"], each["instance_id"]) for each in found] == [(20, 1), (21, 1)]


def test_what_was_predicted_is_judged_whoever_asked_in_between(client, service):
    """Bounds are learnt from truths: routers ask for many requests before they send the first."""
    client.post("/v1/predict", json={"request_meta": [request(1), request(2)], "ts": 0.0})
    ask = {"request_meta": request(3), "ts": 0.0, "instance_id": [0, 1]}
    client.post("/v1/predict", json=ask)
    client.post("/v1/enqueue_request", json=[sent(k, k % 2) for k in (1, 2, 3, 4)])
    client.post("/v1/sync_batch_result", json=[batch(0, 1, end=0.02, started=[1, 3]),
                                               batch(0, 0, end=0.02, started=[2, 4])])  # fmt: skip
    record = service.predictor.record
    assert len(record.ttft) == 3  # of 4 nobody had asked
    client.post("/v1/forget_instance", json={"instance_id": 0})
    assert set(record._open) == {1, 3}


def test_first_tokens_alone_can_be_asked_for(client):
    ask = {"request_meta": request(1), "instance_id": 0, "ts": 0.0, "action_hint": "ttft"}
    (found,) = client.post("/v1/predict", json=ask).json()["predictions"]
    assert found["ttft"] > 0 and found["e2el"] is None and found["tpot"] is None


def test_a_request_may_be_named_by_text(client, service):
    client.post("/v1/enqueue_request", json=sent("3f2c-x"))
    assert len(service.predictor.states[0].waiting) == 1
    told = client.post("/v1/sync_batch_result", json=batch(0, end=0.1, finished=["3f2c-x"])).json()
    assert told["unknown"] == 0 and service.predictor.states[0].is_idle


def test_lost_late_and_doubled_reports_are_counted(client):
    for number, name in ((0, "applied"), (0, "duplicate"), (5, "lost"), (3, "late")):
        told = client.post("/v1/sync_batch_result", json=batch(number, end=0.1 * number)).json()
        assert told[name] == (4 if name == "lost" else 1), name


def test_after_many_lost_reports_nobody_is_believed_to_be_there(client, service):
    client.post("/v1/enqueue_request", json=[sent(k) for k in range(3)])
    client.post("/v1/sync_batch_result", json=batch(0, end=0.1, started=[0, 1, 2]))
    told = client.post("/v1/sync_batch_result", json=batch(2**50, end=1e9)).json()
    assert told["applied"] == 1 and told["lost"] == 2**50 - 1
    state = service.predictor.states[0]
    assert state.is_idle and state.batch_id == 2**50 and state.counts.applied == 2


def test_an_instance_that_begins_anew_is_forgotten(client, service):
    client.post("/v1/enqueue_request", json=sent(1))
    client.post("/v1/sync_batch_result", json=batch(70, end=0.1, started=[1]))
    assert client.post("/v1/forget_instance", json={"instance_id": 0}).json() == {"accepted": 1}
    told = client.post("/v1/sync_batch_result", json=batch(0, end=0.2)).json()
    assert told["applied"] == 1 and service.predictor.states[0].is_idle


def test_an_instance_that_nobody_reports_of_takes_no_more(client, monkeypatch):
    monkeypatch.setattr("fluidserve.serve.service.MOST_PRESENT", 3)
    client.post("/v1/enqueue_request", json=[sent(k) for k in range(3)])
    done = client.post("/v1/enqueue_request", json=sent(4))
    assert done.status_code == 409 and "instance 0" in done.json()["error"]
    assert client.post("/v1/enqueue_request", json=sent(4, instance=1)).status_code == 200


def test_an_instance_whose_reports_stay_away_is_stale():
    client = client_of(service_of(stale_after=1.0))
    client.post("/v1/enqueue_request", json=sent(1))
    ask = {"request_meta": request(2), "ts": 9.0}
    found = client.post("/v1/predict", json=ask).json()["predictions"]
    assert [each["confidence"] == "stale" for each in found] == [True, False]
    assert client.get("/healthz").json()["stale"] == [0]


@pytest.mark.parametrize("kind", [Predictor, SeldomToldPredictor])
def test_an_instance_that_numbers_its_batches_anew_has_begun_anew(kind, caplog):
    service = service_of(kind=kind)
    client = client_of(service)
    client.post("/v1/enqueue_request", json=[sent(k, ts=0.1) for k in range(5)])
    reports = [batch(k, end=0.2 + 0.1 * k, started=[k]) for k in range(3)]
    client.post("/v1/sync_batch_result", json=reports)
    late = client.post("/v1/sync_batch_result", json=[batch(1, end=0.3), batch(2, end=0.4)]).json()
    assert late["late"] == late["duplicate"] == 1 and not caplog.records
    client.post("/v1/enqueue_request", json=[sent(k, ts=7.0 + k) for k in (8, 9)])
    told = client.post("/v1/sync_batch_result", json=batch(0, end=7.5, started=[8])).json()
    assert told["applied"] == 1 and "numbers its batches anew" in caplog.text
    state = service.predictor.states[0]
    assert list(state.waiting) == [9] and 8 in state.running and len(state.running) == 1
    # so a number that was wrong once is not believed for ever
    client.post("/v1/sync_batch_result", json=[batch(2**53, end=8.0), batch(2, end=30.0)])
    assert state.counts.late == 1 and service.predictor.states[0].batch_id == 2


def test_who_asks_about_a_far_time_once_makes_nobody_stale():
    client = client_of(service_of(stale_after=1.0))
    client.post("/v1/enqueue_request", json=sent(1))
    client.post("/v1/predict", json={"request_meta": request(2), "ts": 1.7e12})
    assert client.get("/healthz").json()["stale"] == [0]
    client.post("/v1/sync_batch_result", json=batch(0, end=1.7e12))
    client.post("/v1/sync_batch_result", json=batch(1, end=0.5))
    assert client.get("/healthz").json()["stale"] == []
    client.post("/v1/enqueue_request", json=sent(3, ts=9.0))
    assert client.get("/healthz").json()["stale"] == [0]


def test_requests_that_nobody_announced_take_no_memory_without_end(client, service, monkeypatch):
    monkeypatch.setattr("fluidserve.serve.service.MOST_PRESENT", 30)
    for k in range(4):
        names = list(range(10 * k, 10 * k + 10))
        reports = [batch(k, end=0.1 * k, started=names[:5]), batch(k, 1, started=names[5:])]
        assert client.post("/v1/sync_batch_result", json=reports).status_code == 200
    done = client.post("/v1/sync_batch_result", json=batch(9, end=9.0, started=list(range(99))))
    assert done.status_code == 409 and "forget_instance" in done.json()["error"]
    assert len(service.predictor.states[0].running) == 20


def test_a_prediction_that_fails_fails_alone(client, service, monkeypatch):
    def stalled(*_):
        raise SolveError("lagrangian", "stalled", "on purpose")

    forecaster = service.predictor._forecasters[0]
    service.predictor.predict(1, RequestMeta(1, 60), 0.0)
    monkeypatch.setattr(forecaster, "march", stalled)
    done = client.post("/v1/predict", json={"request_meta": request(2), "ts": 0.0}).json()
    failed, fine = done["predictions"]
    assert failed["confidence"] == "failed" and failed["ttft"] is None
    assert fine["confidence"] != "failed" and fine["ttft"] > 0
    assert service.failed == 1


def test_health(client):
    found = client.get("/healthz").json()
    assert (found["status"], found["instances"], found["time_unit"]) == ("ok", 2, "s")
    assert found["restored"] is False


WRONG = [
    ("", "EOF"),
    ("{", "EOF"),
    ("[]", "at least 1"),
    ("[" * 100_000, "recursion"),
    ("nonsense", "ident"),
    ("{}", "Field required"),
    ({"ts": math.nan}, "ts"),
    ({"ts": math.inf}, "ts"),
    ({"ts": 1e300}, "ts"),
    ({"ts": "1"}, "ts"),
    ({"ts": True}, "ts"),
    ({"ts": None}, "ts"),
    ({"instance_id": -1}, "instance_id"),
    ({"instance_id": 1.5}, "instance_id"),
    ({"more": 1}, "more"),
    ({"request_meta": None}, "request_meta"),
    ({"request_meta": request(-1)}, "request_meta.request_id"),
    ({"request_meta": request("")}, "request_meta.request_id"),
    ({"request_meta": request(2**63)}, "request_meta.request_id"),
    ({"request_meta": request(1, -5)}, "request_meta.prefill_length"),
    ({"request_meta": request(1, 10**9)}, "request_meta.prefill_length"),
    ({"request_meta": request(1, predicted_decode_length=0)}, "predicted_decode_length"),
    ({"request_meta": request(1, slo_ttft=-1)}, "slo_ttft"),
    ({"request_meta": request(1, nonsense=1)}, "nonsense"),
]


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_a_wrong_body_is_refused_in_one_line(client, service, body, words):
    text = body if isinstance(body, str) else json.dumps({**sent(1), **body})
    headers = {"content-type": "application/json"}
    done = client.post("/v1/enqueue_request", content=text, headers=headers)
    assert done.status_code == 422, done.text
    said = done.json()["error"]
    assert words in said and "\n" not in said and len(said) < 400
    assert service.predictor.states[0].is_idle and service.predictor.states[1].is_idle


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instance_id": None}, "instance_id: Input should be a valid integer or a valid array or"),
        ({"instance_id": [0, "b"]}, "instance_id.1: Input should be a valid integer"),
        ({"request_meta": 3}, "request_meta: Input should be an object or a valid array"),
        (
            {"request_meta": request(None)},
            "request_meta.request_id: Input should be a valid integer or a valid string",
        ),
    ],
)
def test_a_place_that_takes_several_kinds_names_them_all(client, body, words):
    ask = {"request_meta": request(1), "instance_id": "all", "ts": 0.0}
    said = client.post("/v1/predict", json={**ask, **body})
    assert said.status_code == 422 and said.json()["error"].startswith(words)


def test_too_many_candidates_are_refused(client):
    ask = {"request_meta": [request(k) for k in range(1000)], "instance_id": [0] * 11, "ts": 0.0}
    done = client.post("/v1/predict", json=ask)
    assert done.status_code == 422 and "10000 candidates" in done.json()["error"]


def test_a_body_of_another_type_is_refused(client):
    done = client.post("/v1/predict", content="x", headers={"content-type": "text/plain"})
    assert done.status_code == 415 and "application/json" in done.json()["error"]


def test_what_is_not_there_says_so(client):
    done = client.get("/v1/predikt")
    assert done.status_code == 404
    assert done.json()["error"] == "/v1/predikt is no call; /docs lists them"
    done = client.get("/v1/predict")
    assert done.status_code == 405 and done.headers["allow"] == "POST"
    assert done.json()["error"] == "/v1/predict takes POST, not GET"


def test_what_breaks_inside_is_told_without_its_inside(client, service, monkeypatch):
    monkeypatch.setattr(service.predictor, "predict", lambda *_: 1 / 0)
    done = client.post("/v1/predict", json={"request_meta": request(2), "ts": 0.0})
    assert done.status_code == 500 and "division" not in done.text and done.json()["error"]
