"""Measure what ``fluidserve bench predictor`` reports: one run, one core, everything warm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from discrete import engine_for
from fluid import capacity
from scheduling import BatchTrace, Predictor, RequestMeta
from scheduling.answering import answer_all, answer_ttft
from scheduling.reference import truth
from serving import DecodeNode, RequestMix
from workload import describe

CANDIDATES = 16
"""Instances that a decision asks."""

LOAD = 0.9
"""Of each instance, by which arrivals are expected."""

PER_NODE = 25
"""Requests that run on a decode node as it is by default."""

SIZES, FLEETS = (10, 100, 1000, 10_000), (8, 64, 256, 1024)
"""Requests on an instance, and instances of a fleet."""


def measure_predictor(*, quick: bool) -> dict[str, Any]:
    """Return every measurement.

    Parameters
    ----------
    quick
        Fewer repeats.
    """
    mix, repeats = describe("normal").mix, 300 if quick else 5000
    fleet = fleet_of(mix, DecodeNode(), CANDIDATES, PER_NODE)
    request = RequestMeta(-1, 60)
    found: dict[str, Any] = {"candidates": CANDIDATES, "reuse": True}
    for name, hint in (("ttft", "ttft"), ("e2e", "all")):
        found[f"{name}_{CANDIDATES}_us"] = percentiles(
            lambda hint=hint: fleet.predict(None, request, 1.0, hint), repeats
        )
    found["no_reuse_us"] = percentiles(lambda: _anew(fleet, request), max(20, repeats // 20))
    found["reference_us"] = percentiles(_fork(mix), max(5, repeats // 500))
    found["predictions_per_s"] = _throughput(fleet)
    found["no_reuse_us_by_requests"] = {
        str(size): percentiles(_one(mix, size, request), max(20, repeats // 50))["p50"]
        for size in SIZES
    }
    found["us_by_instances"] = {str(size): _of_fleet(mix, size, request) for size in FLEETS}
    return found


def fleet_of(mix: RequestMix, node: DecodeNode, instances: int, requests: int) -> Predictor:
    """Return a predictor of a fleet on whose nodes so many requests run, and a tenth waits."""
    rate = LOAD * capacity(mix, node)
    fleet = Predictor([node] * instances, mix, arrival_rate=rate)
    rng = np.random.default_rng(1)
    prompts = mix.prefill[rng.choice(len(mix), size=requests, p=mix.probability)].astype(int)
    batches = max(1, int(mix.mean_decode))
    waiting = requests // 10
    for i in range(instances):
        for k, prompt in enumerate(prompts.tolist()):
            fleet.enqueue_request(i, RequestMeta(k, prompt), 0.0)
        parts = np.array_split(np.arange(requests - waiting), batches)
        for b, part in enumerate(parts):
            begun = int(parts[b][0]) if part.size else 0
            fleet.sync_batch_result(
                i, BatchTrace(b, 0.0, 0.0, 0, begun, started=tuple(part.tolist()))
            )
    return fleet


def percentiles(job: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return how long a job takes [us], after one run that compiles."""
    job()
    took = np.empty(repeats)
    for k in range(repeats):
        began = time.perf_counter_ns()
        job()
        took[k] = time.perf_counter_ns() - began
    p50, p99 = np.percentile(took / 1e3, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def _anew(fleet: Predictor, request: RequestMeta) -> None:
    """Ask one instance whose forecast has to be made."""
    fleet.march_anew(0)
    fleet.predict(0, request, 1.0)


def _one(mix: RequestMix, requests: int, request: RequestMeta) -> Callable[[], None]:
    node = DecodeNode().scaled(max(1, requests // PER_NODE))
    fleet = fleet_of(mix, node, 1, requests)
    return lambda: _anew(fleet, request)


def _of_fleet(mix: RequestMix, instances: int, request: RequestMeta) -> dict[str, float]:
    fleet = fleet_of(mix, DecodeNode(), instances, PER_NODE)
    asked = {"ttft": "ttft", "e2e": "all"}
    return {
        name: percentiles(lambda h=hint: fleet.predict(None, request, 1.0, h), 100)["p50"]
        for name, hint in asked.items()
    }


def _fork(mix: RequestMix) -> Callable[[], Any]:
    """Return a job: one request more on forks of an engine, until everybody has ended."""
    node = DecodeNode()
    table = describe("normal").at_rate(LOAD * capacity(mix, node)).sample(7, num_requests=400)
    engine = engine_for(table, node, record_batches=False)
    at = float(table.arrival_time[300])
    engine.advance(until=float(table.arrival_time[299]))
    at = max(at, engine.time)
    return lambda: truth(engine, 60, 40, at)


def _throughput(fleet: Predictor) -> dict[str, float]:
    """Return predictions per second where many candidates are asked in one call."""
    of, size = fleet.lengths, 1000 * CANDIDATES
    instances = np.tile(np.arange(CANDIDATES), 1000)
    prompts, classes = np.full(size, 60.0), np.zeros(size, np.int64)
    out, curves, about = fleet.room_for(size), *fleet.forecasts
    jobs: Sequence[tuple[str, Callable[[], None]]] = (
        ("ttft", lambda: answer_ttft(curves, about, instances, prompts, 1.0, out)),
        ("e2e", lambda: answer_all(curves, about, instances, prompts, classes, of.survive, of.rest,
                                   of.marks, of.mean, 1.0, out)),
    )  # fmt: skip
    return {name: size / (percentiles(job, 20)["p50"] * 1e-6) for name, job in jobs}
