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
from scheduling import CorrectedPredictor, SeldomToldPredictor
from scheduling.corrected import LATENCIES

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
        present = service.predictor.beliefs
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
            "waiting_requests": ("Without a first token.", sum(len(x.waiting) for x in present)),
            "running_requests": ("That decode.", sum(x.running.total for x in present)),
            "in_flight": ("Calls at this moment.", self.in_flight()),
            "corrector_on_ttft": (
                "Whether TTFTs of llm-d's endpoints are corrected.",
                float(self._llmd.ttft.is_on),
            ),
            "corrector_on_tpot": (
                "Whether TPOTs of llm-d's endpoints are corrected.",
                float(self._llmd.tpot.is_on),
            ),
        }
        if isinstance(service.predictor, SeldomToldPredictor):
            counters["left_unheard"] = (
                "Requests that are followed no longer: believed to have left, nobody said so.",
                service.predictor.left_unheard,
            )
        if self._keeper is not None:
            counters["snapshots"] = ("States written.", self._keeper.writes)
            counters["failed_snapshots"] = ("Writes that failed.", self._keeper.failures)
        yield from _of_corrector(service.corrector)
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


def _of_corrector(corrector: CorrectedPredictor | None) -> Iterator[Any]:
    """Yield how large the factors are that are used, and what they gain."""
    if corrector is None:
        return
    learnt = corrector.corrections()
    known = GaugeMetricFamily(
        "fluidserve_corrections", "Factors: those learnt, and of these those that are used.",
        labels=["latency", "which"],
    )  # fmt: skip
    factors = GaugeMetricFamily(
        "fluidserve_correction_factor", "Least and largest factor in use; 1 where none is.",
        labels=["latency", "which"],
    )  # fmt: skip
    errors = GaugeMetricFamily(
        "fluidserve_correction_error", "Mean held-out error of the logarithm, where a factor is "
        "used, without and with it; 0 where none is.", labels=["latency", "corrected"],
    )  # fmt: skip
    for latency in LATENCIES:
        mine = [each for each in learnt if each.latency == latency]
        used = [each for each in mine if each.is_on]
        known.add_metric([latency, "learnt"], len(mine))
        known.add_metric([latency, "used"], len(used))
        values = [each.factor for each in used] or [1.0]
        factors.add_metric([latency, "least"], min(values))
        factors.add_metric([latency, "largest"], max(values))
        size = max(len(used), 1)
        errors.add_metric([latency, "no"], sum(x.held_out_error for x in used) / size)
        errors.add_metric([latency, "yes"], sum(x.held_out_error_corrected for x in used) / size)
    yield from (known, factors, errors)
