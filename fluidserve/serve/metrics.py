"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fluidserve.serve.bodies import reasons
from fluidserve.serve.keeper import Keeper
from fluidserve.serve.llmd_service import LlmdService
from fluidserve.serve.service import Service

BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
SYNCS = ("applied", "duplicate", "late", "lost", "unknown")
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of one service.

    Parameters
    ----------
    service, llmd, keeper
        What is asked when somebody looks.
    """

    def __init__(self, service: Service, llmd: LlmdService, keeper: Keeper | None) -> None:
        self.registry = CollectorRegistry()
        self.paths: Collection[str] = ()
        self.in_flight: Callable[[], int] = lambda: 0
        self._service, self._llmd, self._keeper = service, llmd, keeper
        self._calls = Counter(
            "fluidserve_requests", "Calls.", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "fluidserve_request_seconds", "From the complete body to the answer.", ["path"],
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.registry.register(self)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count a call."""
        path = path if path in self.paths else "other"  # or clients could make names without end
        self._calls.labels(path, str(status)).inc()
        if seconds > 0.0:
            self._seconds.labels(path).observe(seconds)

    def collect(self) -> Iterator[Any]:
        """Yield what the service knows by itself."""
        service, states = self._service, self._service.predictor.states
        syncs = CounterMetricFamily(
            "fluidserve_syncs", "Reports of batches by how they came in; unknown counts requests.",
            labels=["result"],
        )  # fmt: skip
        for name in SYNCS:
            syncs.add_metric([name], sum(getattr(each.counts, name) for each in states))
        yield syncs
        counters = {
            "predictions": ("Predictions of the three operations.", service.predictions),
            "failed_predictions": ("Those that failed.", service.failed),
            "marches": ("Forecasts made.", service.predictor.marches),
            "llmd_marches": ("Forecasts made from aggregates.", self._llmd.predictor.marches),
            "llmd_training_entries": ("Measurements received.", self._llmd.received),
        }
        gauges = {
            "instances": ("Instances of the fleet.", len(states)),
            "stale_instances": ("Instances whose reports stay away.", len(service.stale())),
            "waiting_requests": ("Without a first token.", sum(len(x.waiting) for x in states)),
            "running_requests": ("That decode.", sum(x.running.total for x in states)),
            "in_flight": ("Calls at this moment.", self.in_flight()),
            "corrector_on_ttft": ("Whether TTFTs are corrected.", float(self._llmd.ttft.is_on)),
            "corrector_on_tpot": ("Whether TPOTs are corrected.", float(self._llmd.tpot.is_on)),
        }
        if self._keeper is not None:
            counters["snapshots"] = ("States written.", self._keeper.writes)
            counters["failed_snapshots"] = ("Writes that failed.", self._keeper.failures)
        for name, (words, value) in counters.items():
            yield CounterMetricFamily(f"fluidserve_{name}", words, value=value)
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(f"fluidserve_{name}", words, value=value)

    def router(self) -> APIRouter:
        """Return the endpoint."""
        router = APIRouter(tags=["service"])

        @router.get(
            "/metrics", summary="Metrics for Prometheus.",
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
                       **reasons()},
            response_class=Response,
        )  # fmt: skip
        async def metrics() -> Response:
            """Say how much was asked, how long it took and how reports came in."""
            return Response(generate_latest(self.registry), headers={"content-type": TYPE})

        return router
