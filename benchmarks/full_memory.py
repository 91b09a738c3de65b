"""The known experiment: what a full memory does in mode sacrifice, and what a threshold changes.

Prompts and decodes of 20 tokens, memory and budget of 10,000 tokens, batches of 0.003 + 0.00032 per
token, 5.1 requests per time unit: load 0.996. Prints JSON; ``--plot`` draws the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import discrete
import fluid
import ode
from fluidserve import plots
from fluidserve.folders import plain
from serving import BatchTimeLaw, DecodeNode
from studies import Question, full_memory
from workload import describe

NODE = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000,
                  mode="sacrifice")  # fmt: skip
RATE = 5.1
TYPES = f"(20,20,{RATE})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--plot", default="", help="PNG of the loop, a collapse and the thresholds")
    parser.add_argument("--seed", type=int, default=5, help="of the path that is drawn")
    options = parser.parse_args()
    found, drawn = study(quick=options.quick, seed=options.seed)
    if options.plot:
        plots.full_memory(*drawn, options.plot, arrival_rate=RATE)
    json.dump(plain(found), sys.stdout, indent=1)
    print()


def study(*, quick: bool = False, seed: int = 5) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Return the figures, and what the picture is drawn from."""
    work = describe(types=TYPES)
    asked = Question(work, NODE, horizon=20_000.0)
    loop = ode.hysteresis(work.mix, NODE)
    branches = full_memory.branches(asked, loop.arrival_rate[: loop.top + 1])
    rows = full_memory.threshold_table(asked, runs=4 if quick else 32)
    kappa = np.round(np.linspace(0.4, 1.0, 13 if quick else 61), 3)
    settled = np.array([
        ode.collapsed_throughput(work.mix, replace(NODE, admission_threshold=float(k))).throughput
        for k in kappa
    ])  # fmt: skip
    requests = work.sample(seed, horizon=20_000.0)
    paths = {k: _path(requests, k) for k in (1.0, 0.5)}
    choice = {
        rate: asdict(ode.choose_threshold(work.mix, NODE, rate)) for rate in (3.5, 4.0, 4.4, RATE)
    }
    found = {
        "capacity": loop.collapse.capacity,
        "theta_sac": loop.collapse.throughput,
        "evictions_per_completion": loop.collapse.evictions_per_completion,
        "loop": {
            "arrival_rate": loop.arrival_rate, "throughput": loop.throughput,
            "in_system": loop.in_system, "gap": loop.gap,
        },
        "branches": asdict(branches),
        "thresholds": [asdict(row) for row in rows],
        "mean_time_to_full": {
            rate: fluid.mean_time_to_full(work.mix, NODE, rate) for rate in (5.05, RATE)
        },
        "choice": choice,
    }  # fmt: skip
    return found, (loop, branches, paths, rows, (kappa, settled))


def _path(requests: Any, threshold: float) -> tuple[Any, Any]:
    grid = np.linspace(0.0, requests.horizon, 2000)
    node = replace(NODE, admission_threshold=threshold)
    run = discrete.simulate(
        requests, node, until=requests.horizon, record_batches=False, sample_times=grid
    )
    trajectory = run.trajectory()
    return trajectory.time, trajectory.outputs["in_system"]


if __name__ == "__main__":
    main()
