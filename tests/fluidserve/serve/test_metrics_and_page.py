"""Metrics count what happened; the page tells of every endpoint and loads nothing from anywhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from toy_service import batch, client_of, metrics_of, request, sent, service_of


def test_metrics_count_what_happened():
    client = client_of(service_of(stale_after=1.0))
    client.post("/v1/enqueue_request", json=[sent(k) for k in range(3)])
    client.post("/v1/sync_batch_result", json=[batch(0, end=0.1, started=[0]), batch(0, end=0.1),
                                               batch(9, end=0.2), batch(4, end=0.2)])  # fmt: skip
    client.post("/v1/predict", json={"request_meta": request(9), "ts": 50.0})
    client.post("/v1/predict", content=b"{", headers={"content-type": "application/json"})
    client.get("/no/such/path")
    found = metrics_of(client)
    assert found["fluidserve_predictions_total"] == 2
    assert found["fluidserve_marches_total"] == 2
    # of the eight between 0 and 9 one came late
    for name, count in (("applied", 2), ("duplicate", 1), ("late", 1), ("lost", 7)):
        assert found[f'fluidserve_syncs_total{{result="{name}"}}'] == count, name
    assert found["fluidserve_stale_instances"] == 1
    assert found["fluidserve_waiting_requests"] == 2
    assert found["fluidserve_running_requests"] == 1
    assert found["fluidserve_in_flight"] == 1  # this very call
    assert found['fluidserve_requests_total{path="/v1/predict",status="200"}'] == 1
    assert found['fluidserve_requests_total{path="/v1/predict",status="422"}'] == 1
    assert found['fluidserve_requests_total{path="other",status="404"}'] == 1
    assert found['fluidserve_request_seconds_count{path="/v1/predict"}'] == 2


def test_names_of_paths_are_few(client):
    for k in range(50):
        client.get(f"/guess/{k}")
    assert not [name for name in metrics_of(client) if "guess" in name]


class Addresses(HTMLParser):
    """Collects what a page would load or link to."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_tells_of_every_endpoint_and_loads_nothing(client):
    done = client.get("/docs")
    assert done.status_code == 200 and done.headers["content-type"].startswith("text/html")
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        assert re.search(rf"(GET|POST) {re.escape(path)}</code>", done.text), path
        assert methods
    for name in document["components"]["schemas"]:
        assert f"id='{name}'" in done.text, name
    addresses = Addresses()
    addresses.feed(done.text)
    assert addresses.tags.isdisjoint({"script", "img", "link", "iframe"})
    assert all(each.startswith("#") or each == "openapi.json" for each in addresses.found)
    assert "//" not in done.text.replace("://", "", 0).partition("<h2>")[0]


def test_every_reference_of_the_document_leads_somewhere(client):
    document = client.get("/openapi.json").json()
    names = re.findall(r"#/components/schemas/([\w-]+)", str(document))
    assert len(names) > 20 and set(names) <= set(document["components"]["schemas"])
