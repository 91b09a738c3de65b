"""Measure what ``fluidserve bench`` reports."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from discrete import simulate
from fluid import capacity
from ode import solve
from serving import DecodeNode, RequestTable
from workload import Workload, describe

SIZES = (1, 10, 100, 1000, 10_000)
HORIZON, LOAD = 3000.0, 0.8
"""Of the fluid against one discrete run: constant rate on [0, HORIZON], arrivals and no drain."""


def measure(*, quick: bool, methods: Sequence[str]) -> dict[str, Any]:
    """Return every measurement; progress goes to stderr.

    Parameters
    ----------
    quick
        Smaller systems, fewer repeats.
    methods
        Fluid methods to time.
    """
    budget = 0.5 if quick else 3.0
    _say("engine")
    engine = _engine(10_000 if quick else 100_000, budget)
    sizes = SIZES[:3] if quick else SIZES
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("fluidserve", "numpy", "numba", "jax")},
        },
        "engine": engine,
        "fluid_vs_discrete": [_fluid_vs_discrete(n, budget) for n in sizes],
        "methods": {name: _method(name, budget) for name in methods},
    }


def best_of(job: Callable[[], Any], budget: float, least: int = 3, most: int = 50) -> float:
    """Return the shortest time of ``job`` [s] after one run that compiles.

    Parameters
    ----------
    budget : [s]
        Repeat until so much is spent, at least ``least`` and at most ``most`` times.
    """
    began = time.perf_counter()
    job()
    if time.perf_counter() - began > 20 * budget:
        least = 1
    best, spent, done = float("inf"), 0.0, 0
    while done < least or (spent < budget and done < most):
        began = time.perf_counter()
        job()
        took = time.perf_counter() - began
        best, spent, done = min(best, took), spent + took, done + 1
    return best


def _workload(node: DecodeNode, load: float) -> Workload:
    normal = describe("normal")
    return normal.at_rate(load * capacity(normal.mix, node))


def _engine(size: int, budget: float) -> list[dict[str, Any]]:
    cases = [
        ("normal scenario, load 0.95, B = 2000", DecodeNode(), 0.95, size, False),
        ("normal scenario, load 0.95, B = 2000", DecodeNode(), 0.95, size, True),
        ("normal scenario, load 0.6, B unlimited", DecodeNode(B=None), 0.6, 5_000, False),
        ("normal scenario, load 0.6, B unlimited", DecodeNode(B=None), 0.6, 5_000, True),
    ]
    measured = []
    for name, node, load, count, batches in cases:
        table = _workload(node, load).sample(42, num_requests=count)
        seconds = best_of(lambda t=table, i=node, b=batches: _run(t, i, b), budget)
        made = simulate(table, node, record_batches=False).num_batches
        measured.append(
            {
                "case": name,
                "records": "requests and batches" if batches else "requests",
                "requests": count,
                "batches": made,
                "seconds": seconds,
                "requests_per_second": count / seconds,
                "batches_per_second": made / seconds,
            }
        )
    return measured


def _run(table: RequestTable, node: DecodeNode, batches: bool) -> None:
    """Simulate and read off the records of every request."""
    run = simulate(table, node, record_batches=batches)
    assert run.requests.rows == len(table)


def _fluid_vs_discrete(n: int, budget: float) -> dict[str, Any]:
    _say(f"fluid next to one discrete run, n = {n:,}")
    node = DecodeNode().scaled(n)
    workload = _workload(node, LOAD)
    table, profile = workload.sample(42, horizon=HORIZON), workload.profile(HORIZON)
    discrete = best_of(
        lambda: simulate(table, node, until=HORIZON, record_batches=False), budget, most=20
    )
    fluid = best_of(lambda: solve(profile, workload.mix, node, drain=False), budget)
    return {
        "n": n,
        "requests": len(table),
        "discrete_seconds": discrete,
        "lagrangian_seconds": fluid,
        "discrete_over_fluid": discrete / fluid,
    }


def _method(name: str, budget: float) -> dict[str, Any]:
    """Time one method on the default node: normal mix, load 0.8, constant rate."""
    _say(f"method {name}")
    node = DecodeNode()
    workload = _workload(node, LOAD)
    profile = workload.profile(HORIZON)
    # Until all have completed: one node's work in the system counts every arrival.
    solution = solve(profile, workload.mix, node, method=name)
    seconds = best_of(lambda: solve(profile, workload.mix, node, method=name), budget, least=2)
    return {"seconds": seconds, "stats": dict(solution.stats)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
