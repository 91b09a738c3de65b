"""A small service that is called in the process, and messages to it."""

from __future__ import annotations

from starlette.testclient import TestClient

from fluidserve.serve.application import application
from fluidserve.serve.guard import Limits
from fluidserve.serve.llmd_service import LlmdService
from fluidserve.serve.service import Service
from scheduling import CorrectedPredictor, Predictor
from scheduling.aggregates import AggregatePredictor
from serving import BatchTimeLaw, DecodeNode, RequestMix

MIX = RequestMix.from_lengths([20, 60, 120], [10, 25, 40])


def node_of(unit="s"):
    law = BatchTimeLaw(d_0=0.01, d_kv=1e-6)
    return DecodeNode(M_total=20_000, B=2_000, batch_time=law, time_unit=unit)


def service_of(size=2, unit="s", kind=Predictor, has_corrector=False, **options):
    predictor = kind([node_of(unit)] * size, MIX, **options)
    return Service(predictor, unit, CorrectedPredictor(predictor) if has_corrector else None)


def application_of(service, token=None, keeper=None, **limits):
    llmd = LlmdService(AggregatePredictor(node_of(service.time_unit), MIX), service.time_unit)
    return application(service, llmd, limits=Limits(**limits), token=token, keeper=keeper)


def client_of(service, **options):
    return TestClient(application_of(service, **options), raise_server_exceptions=False)


def request(number, prompt=60, **more):
    return {"request_id": number, "prefill_length": prompt, **more}


def sent(number, instance=0, ts=0.0, **more):
    return {"instance_id": instance, "request_meta": request(number, **more), "ts": ts}


def batch(number, instance=0, end=1.0, **more):
    trace = {"batch_id": number, "end": end, "duration": 0.01, "decode_len": 1, **more}
    return {"instance_id": instance, "batch_trace": trace}


def metrics_of(client):
    """Return what Prometheus is told, by name."""
    done = client.get("/metrics")
    assert done.status_code == 200 and done.headers["content-type"].startswith("text/plain")
    rows = (line.rpartition(" ") for line in done.text.splitlines() if line[0] != "#")
    return {name: float(value) for name, _, value in rows}
