"""How fast one node is predicted, beside one run of the engine, measured in turn.

    python benchmarks/one_node_speed.py

Prints a Markdown table: best of many, warm, percentiles included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import discrete
from fluid import capacity
from ode import solve, stationary
from serving import DecodeNode
from workload import Workload, describe

HORIZON = 6000.0
ROUNDS = 60


def main() -> None:
    print("| budget | load | stationary | over time | one engine run | ratio, over time |")
    print("|---|---:|---:|---:|---:|---:|")
    for budget in (2000, None):
        node, workload = DecodeNode(B=budget), describe("normal")
        for load in (0.6, 0.9, 1.1):
            at_load = workload.at_rate(load * capacity(workload.mix, node))
            jobs = _jobs(at_load, node, load)
            found = _in_turn(jobs)
            shown = f"{found[0]:.2f} ms" if load < 1 else "-"
            print(
                f"| {budget or 'unlimited'} | {load} | {shown} | {found[1]:.1f} ms "
                f"| {found[2]:.2f} ms | {found[1] / found[2]:.1f} |"
            )


def _jobs(workload: Workload, node: DecodeNode, load: float) -> tuple[Callable[[], Any], ...]:
    """Return the equilibrium, the solve over time and one engine run, all with percentiles."""
    profile, mix = workload.profile(HORIZON), workload.mix
    requests = workload.sample(1, horizon=HORIZON)

    def of(latencies: Any) -> list[float]:
        return [latencies[name].percentiles[99] for name in ("ttft", "e2el")]

    def steady() -> Any:
        return of(stationary(mix, node, workload.rate).latencies) if load < 1 else None

    def over_time() -> Any:
        return of(solve(profile, mix, node, method="node_work").metrics().latencies)

    def engine() -> Any:
        return of(discrete.simulate(requests, node, record_batches=False).metrics().latencies)

    return steady, over_time, engine


def _in_turn(jobs: tuple[Callable[[], Any], ...]) -> list[float]:
    """Return the best time of each job [ms], the jobs taking turns."""
    best = [float("inf")] * len(jobs)
    for _ in range(ROUNDS):
        for k, job in enumerate(jobs):
            began = time.perf_counter()
            job()
            best[k] = min(best[k], 1e3 * (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    main()
