"""What the service learns of its answers, and what it believes while instances tell nothing."""

from __future__ import annotations

import pytest
from toy_service import batch, client_of, metrics_of, request, sent, service_of

from fluidserve.serve.keeper import Keeper
from scheduling import Predictor, SeldomToldPredictor
from serving import FluidServeError

OFF = 1.4
"""By how much everything takes longer than it is predicted."""


def predicted(client, number, ts, instance="all"):
    ask = {"request_meta": request(number), "ts": ts, "instance_id": instance}
    return client.post("/v1/predict", json=ask).json()["predictions"]


def slow(client, first, last):
    """Let instance 0 serve requests one by one, ``OFF`` times as slowly as plain answers say."""
    for number in range(first, last):
        known = client.get("/v1/corrections").json()["corrections"]
        factor = {each["latency"]: each["factor"] for each in known}
        now = 10.0 * number
        mine = predicted(client, number, now)[0]
        predicted(client, 10**6, now)  # others ask in between
        client.post("/v1/enqueue_request", json=sent(number, 0, now))
        for k, (name, latency) in enumerate((("started", "ttft"), ("finished", "e2el"))):
            after = OFF * mine[latency] / factor.get(latency, 1.0)
            report = batch(2 * number + k, end=now + after, **{name: [number]})
            client.post("/v1/sync_batch_result", json=report)


@pytest.mark.parametrize("kind", [Predictor, SeldomToldPredictor])
def test_answers_are_corrected_once_that_was_earned_and_it_is_said(kind):
    client = client_of(service_of(kind=kind, has_corrector=True))
    assert client.get("/v1/corrections").json() == {"corrector": True, "corrections": []}
    plain = predicted(client, 10**6, 0.0)[0]
    slow(client, 0, 40)
    assert metrics_of(client)['fluidserve_corrections{latency="ttft",which="used"}'] == 0
    assert predicted(client, 10**6, 405.0)[0]["ttft"] == pytest.approx(plain["ttft"], rel=1e-3)
    slow(client, 40, 90)
    said = client.get("/v1/corrections").json()["corrections"]
    assert [(each["instance"], each["latency"], each["regime"]) for each in said] == [
        (0, "ttft", "free"), (0, "e2el", "free"),
    ]  # fmt: skip
    for each in said:
        assert each["is_on"] and each["measured"] == 90
        assert each["factor"] == pytest.approx(OFF, rel=1e-6)
        assert each["held_out_error_corrected"] < 0.5 * each["held_out_error"]
    mine, other = predicted(client, 10**6, 905.0)
    for latency in ("ttft", "e2el"):
        assert mine[latency] == pytest.approx(OFF * plain[latency], rel=1e-3)
        assert other[latency] == pytest.approx(plain[latency], rel=1e-3)  # it has taken nobody
        low, high = mine[f"{latency}_bounds"]
        assert low <= mine[latency] <= high
    found = metrics_of(client)
    for latency in ("ttft", "e2el"):
        assert found[f'fluidserve_corrections{{latency="{latency}",which="used"}}'] == 1
        largest = found[f'fluidserve_correction_factor{{latency="{latency}",which="largest"}}']
        assert largest == pytest.approx(OFF, rel=1e-6)
        without, with_it = (
            found[f'fluidserve_correction_error{{corrected="{each}",latency="{latency}"}}']
            for each in ("no", "yes")
        )
        assert with_it < 0.5 * without


def test_without_the_corrector_nothing_is_learnt(client):
    slow(client, 0, 60)
    assert client.get("/v1/corrections").json() == {"corrector": False, "corrections": []}
    assert not [name for name in metrics_of(client) if name.startswith("fluidserve_correction")]


def test_an_instance_that_begins_anew_keeps_its_factor_and_awaits_no_truth():
    service = service_of(has_corrector=True)
    client = client_of(service)
    slow(client, 0, 90)
    predicted(client, 100, 1000.0)
    client.post("/v1/enqueue_request", json=[sent(100, 0, 1000.0), sent(101, 1, 1000.0)])
    assert list(service.corrector._open) == [100]
    client.post("/v1/forget_instance", json={"instance_id": 0})
    assert not service.corrector._open
    assert service.corrector.factors[0, 0, 0] == pytest.approx(OFF, rel=1e-6)


@pytest.mark.parametrize("kind", [Predictor, SeldomToldPredictor])
def test_what_was_learnt_outlives_the_process(tmp_path, kind):
    keeper, service = Keeper(tmp_path / "state.npz", 5.0), service_of(kind=kind, has_corrector=True)
    client = client_of(service)
    slow(client, 0, 70)
    predicted(client, 100, 1000.0)
    client.post("/v1/enqueue_request", json=[sent(100, 0, 1000.0), sent(101, 1, 1000.1)])
    client.post("/v1/sync_batch_result", json=batch(200, end=1000.02, started=[100]))
    before = predicted(client, 200, 1000.3)
    keeper.write(keeper.packed(service))
    other = service_of(kind=kind, has_corrector=True)
    keeper.read(other)
    again = client_of(other)
    assert predicted(again, 200, 1000.3) == before
    assert again.get("/v1/corrections").json() == client.get("/v1/corrections").json()
    end = batch(201, end=1000.4, finished=[100])
    for each in (client, again):  # and both learn on alike
        each.post("/v1/sync_batch_result", json=end)
        slow(each, 110, 116)
    assert again.get("/v1/corrections").json() == client.get("/v1/corrections").json()
    assert predicted(again, 300, 1200.0) == predicted(client, 300, 1200.0)
    bare = service_of(kind=kind)
    keeper.read(bare)  # the state is the same without it
    plain = predicted(client_of(bare), 200, 1000.3)[0]["e2el"]
    assert before[0]["e2el"] == pytest.approx(OFF * plain, rel=1e-6)


def test_a_state_without_what_was_learnt_is_gone_on_from(tmp_path):
    keeper, service = Keeper(tmp_path / "state.npz", 5.0), service_of()
    slow(client_of(service), 0, 5)
    keeper.write(keeper.packed(service))
    other = service_of(has_corrector=True)
    keeper.read(other)
    assert other.restored and other.corrector.corrections() == []


def test_a_state_is_of_one_kind_of_reports(tmp_path):
    keeper = Keeper(tmp_path / "state.npz", 5.0)
    for kind, other, words in (
        (Predictor, SeldomToldPredictor, "with every batch"),
        (SeldomToldPredictor, Predictor, "seldom"),
    ):
        keeper.write(Keeper(keeper.path, 5.0).packed(service_of(kind=kind)))
        with pytest.raises(FluidServeError, match=f"report {words}"):
            keeper.read(service_of(kind=other))


def test_instances_that_never_report_are_believed_to_serve_and_cost_no_memory(tmp_path):
    options = {"kind": SeldomToldPredictor, "has_corrector": True, "arrival_rate": 20.0}
    service = service_of(**options)
    client = client_of(service)
    state = service.predictor.states[0]
    most = 0
    for k in range(600):
        client.post("/v1/enqueue_request", json=sent(k, 0, 0.05 * k))
        most = max(most, len(state.waiting), len(state.fresh), len(state.queue))
    belief = service.predictor.beliefs[0]
    assert 3 < belief.in_system < 20  # by the law each stays for half a second or less
    assert most < 60 and len(belief.running) < 60
    found = metrics_of(client)
    assert found["fluidserve_left_unheard_total"] == service.predictor.left_unheard > 540
    told = found["fluidserve_running_requests"] + found["fluidserve_waiting_requests"]
    assert told == pytest.approx(belief.in_system)
    busy, idle = predicted(client, 10**6, 30.0)
    assert busy["e2el"] > idle["e2el"]
    late = predicted(client, 10**6, 1000.0)
    assert late[0]["e2el"] == pytest.approx(late[1]["e2el"], rel=1e-3)
    client.post("/v1/enqueue_request", json=sent(600, 1, 1000.0))
    client.post("/v1/enqueue_request", json=sent(601, 0, 1000.0))
    assert list(state.waiting) == [601] and not state.fresh
    keeper = Keeper(tmp_path / "state.npz", 5.0)
    client.post(
        "/v1/enqueue_request", json=[sent(k, 0, 1000.0 + 0.05 * k) for k in range(700, 720)]
    )
    before = predicted(client, 10**6, 1036.2)
    keeper.write(keeper.packed(service))
    other = service_of(**options)
    keeper.read(other)
    again = client_of(other)
    assert predicted(again, 10**6, 1036.2) == before
    assert metrics_of(again)["fluidserve_left_unheard_total"] == service.predictor.left_unheard
    client.post("/v1/forget_instance", json={"instance_id": 0})
    empty = predicted(client, 10**6, 1036.3)
    assert empty[0]["e2el"] == pytest.approx(empty[1]["e2el"], rel=1e-3)
    assert service.predictor.beliefs[0].is_idle


def test_one_who_reports_seldom_is_believed_when_it_does():
    service = service_of(kind=SeldomToldPredictor)
    client = client_of(service)
    client.post("/v1/enqueue_request", json=[sent(k, 0, 0.0) for k in range(10)])
    predicted(client, 10**6, 0.2)
    report = batch(20, end=0.21, started=[7, 8, 9], finished=list(range(5)), decode_len=7)
    assert client.post("/v1/sync_batch_result", json=report).json()["unknown"] == 0
    assert service.predictor.beliefs[0].in_system == 5.0
    again = client.post("/v1/sync_batch_result", json=report).json()
    assert again["duplicate"] == 1
    predicted(client, 10**6, 0.3)
    moved = service.predictor.beliefs[0]
    client.post("/v1/sync_batch_result", json=report)  # what is known already changes no belief
    assert service.predictor.beliefs[0] is moved and moved.boundary > 0.28
