"""A router of llm-d gets the fields that it reads, in milliseconds."""

from __future__ import annotations

from datetime import datetime

import pytest
from toy_service import client_of, node_of, service_of

FIELDS = {
    "ttft_ms", "tpot_ms", "ttft_uncertainty", "tpot_uncertainty", "ttft_prediction_bounds",
    "tpot_prediction_bounds", "predicted_at", "model_type", "objective_type", "quantile",
    "last_model_load",
}  # fmt: skip


def pod(running=5, waiting=0, **more):
    return {
        "kv_cache_percentage": 0.1, "input_token_length": 60, "num_request_waiting": waiting,
        "num_request_running": running, "num_tokens_generated": 0, "prefix_cache_score": 0.0,
        **more,
    }  # fmt: skip


def measured(ttft, tpot, **more):
    return pod(actual_ttft_ms=ttft, actual_tpot_ms=tpot, timestamp="2026-11-29T12:00:00Z", **more)


def test_a_prediction_has_the_fields_of_llmd(client):
    found = client.post("/predict", json=pod(0, kv_cache_percentage=0.0, future_field=1)).json()
    assert set(found) == FIELDS
    alone = 1000 * node_of().batch_time.duration(61, 1)
    assert found["ttft_ms"] == pytest.approx(alone, rel=1e-6)
    assert found["tpot_ms"] == pytest.approx(alone, rel=0.01)
    assert found["ttft_prediction_bounds"] == [found["ttft_ms"]] * 2  # nothing was measured yet
    assert found["ttft_uncertainty"] == 0
    datetime.fromisoformat(found["predicted_at"])


def test_milliseconds_are_milliseconds_in_any_unit():
    found = [
        client_of(service_of(unit=unit)).post("/predict", json=pod(0)).json()["ttft_ms"]
        for unit in ("s", "ms")
    ]
    assert found[0] == pytest.approx(1000 * found[1])


def test_times_without_a_unit_are_refused_in_words():
    client = client_of(service_of(unit="none"))
    done = client.post("/predict", json=pod())
    assert done.status_code == 409 and "time_unit" in done.json()["error"]
    assert client.get("/status").json()["is_ready"] is False
    bulk = client.post("/predict/bulk", json={"requests": [pod()]}).json()
    assert bulk["failed_predictions"] == 1 and "time_unit" in bulk["errors"][0]["error"]
    assert client.post("/predict/bulk/strict", json={"requests": [pod()]}).status_code == 409


@pytest.mark.parametrize("path", ["/predict/bulk", "/predict/bulk/strict"])
def test_bulk_says_what_one_by_one_says(client, path):
    pods = [pod(k, k % 3) for k in range(100)]
    found = client.post(path, json={"requests": pods}).json()
    assert (found["total_requests"], found["successful_predictions"]) == (100, 100)
    for each, row in list(zip(pods, found["predictions"], strict=True))[::23]:
        assert client.post("/predict", json=each).json()["ttft_ms"] == row["ttft_ms"]
    assert client.post(path, json={"requests": [*pods, pod()]}).status_code == 422
    assert client.post(path, json={"requests": []}).status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"kv_cache_percentage": 1.5}, {"kv_cache_percentage": -0.1}, {"num_request_running": -1},
        {"num_request_waiting": 1.5}, {"input_token_length": None}, {"prefix_cache_score": "1"},
        {"num_request_running": 10**9},
    ],
)  # fmt: skip
def test_what_no_instance_can_be_is_refused(client, wrong):
    done = client.post("/predict", json=pod(**wrong))
    assert done.status_code == 422 and next(iter(wrong)) in done.json()["error"]


def test_measurements_correct_answers_only_when_they_have_earned_it(client):
    before = client.post("/predict", json=pod()).json()
    entries = [measured(1.5 * before["ttft_ms"], before["tpot_ms"]) for _ in range(30)]
    done = client.post("/add_training_data_bulk", json={"entries": entries})
    assert done.status_code == 202 and done.json() == {"message": "Accepted 30 training samples."}
    assert client.post("/predict", json=pod()).json()["ttft_ms"] == before["ttft_ms"]
    for _ in range(3):
        client.post("/add_training_data_bulk", json={"entries": entries})
    after = client.post("/predict", json=pod()).json()
    assert after["ttft_ms"] == pytest.approx(1.5 * before["ttft_ms"])
    assert after["tpot_ms"] == before["tpot_ms"]
    status = client.get("/status").json()
    assert status["ttft"]["is_on"] and not status["tpot"]["is_on"]
    assert status["ttft"]["held_out_error_corrected"] < status["ttft"]["held_out_error"]
    assert status["entries_received"] == status["entries_learnt"] == 120


def test_of_a_long_list_some_are_learnt_from_and_it_says_so(client):
    entries = [measured(0.0, 0.0)] * 10 + [measured(20.0, 11.0)] * 990
    client.post("/add_training_data_bulk", json={"entries": entries})
    status = client.get("/status").json()
    assert status["entries_received"] == 1000 and 20 < status["entries_learnt"] <= 32
    assert status["entries_passed_over"] >= 1000 - 32
    too_many = {"entries": [measured(1.0, 1.0)] * 1001}
    assert client.post("/add_training_data_bulk", json=too_many).status_code in (413, 422)


def test_it_says_when_it_is_ready(client):
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/status").json()["model_type"] == "fluid"
