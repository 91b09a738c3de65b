"""Measure what it costs a router to hear of its instances seldom, or wrongly.

    python benchmarks/sync_ablation.py --out sync --lengths lengths_sharegpt_val_10k.csv.gz
    python benchmarks/sync_ablation.py --out quick --lengths ... --quick             # 2 minutes

The fleet is of `vllm_v1` servers of one profile. For every way to hear and every policy the largest
load is sought at which the p99 TTFT stays below a limit; another run at a fixed load tells how
reports came in and how far the predictor's belief drifts. Prints Markdown; OUT.json has the
numbers. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from given import run, whole
from routing_tables import grid

from fluidserve import config
from fluidserve.inputs import load_config_of
from fluidserve.jobs.kept import digest_of_file, identity_of, identity_of_routing
from scheduling import Faults, Signals
from scheduling.drift import COUNTS, DRIFTS, reports_of
from scheduling.experiment import Routing, capacity_of, row_of
from scheduling.policies import listens
from studies import Question
from studies.sweeps import Journal, sweep
from studies.tuning import parse_slo
from workload import describe

HEARD = {
    "every batch": (Signals(), Faults()),
    "0.5 s": (Signals(0.5), Faults()),
    "2 s": (Signals(2.0), Faults()),
    "10 s": (Signals(10.0), Faults()),
    "never": (Signals(math.inf), Faults()),
    "1 % lost": (Signals(), Faults(lost=0.01)),
    "1 % twice": (Signals(), Faults(doubled=0.01)),
    "1 % out of order": (Signals(), Faults(reordered=0.01)),
}
"""Ways to hear of instances."""

POLICIES = ("jsq", "jsq-own", "predicted-ttft")
SLO = "p99_ttft<1"
"""Objective of the capacity, in seconds."""

LOADS, EXACT = (0.5, 1.2), 0.015
"""Loads between which a capacity is sought, and its relative width."""

FIXED = 0.9
"""Load of the runs that tell latencies and drift."""

LATENCIES = ("mean_ttft", "p99_ttft", "mean_e2el")

INSTANCES, REQUESTS, SEEDS = 4, 1500, 2


@dataclass(frozen=True, eq=False)
class Study:
    """An experiment for every way to hear, and whether capacities are sought."""

    heard: Mapping[str, Routing]
    seeks: bool


def point_in(study: Study, point: tuple[str, str]) -> dict[str, Any]:
    """Return the capacity of a policy that hears in a way, and its runs at the fixed load."""
    heard, policy = point
    routing, began = study.heard[heard], time.process_time()
    rows = [row_of(routing, (FIXED, seed, policy)) for seed in range(routing.seeds)]
    told = reports_of(rows)
    found = dict(told[0]) if told else {}
    for name in LATENCIES:
        found[name] = sum(row[name] for row in rows) / len(rows)
    if study.seeks:
        slo = parse_slo(SLO, "s")
        found["capacity"] = capacity_of(routing, (policy, slo), LOADS, EXACT)["load"]
    return found | {"heard": heard, "policy": policy, "cpu": time.process_time() - began}


def study_of(
    lengths: str, requests: int, seeds: int, heard_how: Sequence[str] = tuple(HEARD), *, seeks: bool
) -> Study:
    """Return the experiments."""
    named = {"model": "Llama-3.1-8B", "hardware": "RTX4090"}
    one = config.instance_of(load_config_of(named))
    question = Question(describe(lengths=lengths), one, num_requests=requests)
    heard = {
        name: Routing(question, (one,) * INSTANCES,
                      tuple(p for p in POLICIES if not faults.share or listens(p)),
                      (FIXED,), seeds=seeds, signals=signals, faults=faults)
        for name, (signals, faults) in HEARD.items() if name in heard_how
    }  # fmt: skip
    return Study(heard, seeks)


def identity(lengths: str, study: Study, points: Sequence[tuple[str, str]]) -> str:
    """Return what names this study, so that a journal of another one is refused."""
    heard = [[name, identity_of_routing(routing)] for name, routing in study.heard.items()]
    sought = [SLO, LOADS, EXACT] if study.seeks else None
    return identity_of(digest_of_file(lengths), points, heard, sought)


def capacities(rows: Sequence[Mapping[str, Any]], policies: Sequence[str]) -> str:
    """Return the table of capacities, beside those of the same policy that hears every batch."""
    load = {(row["heard"], row["policy"]): row["capacity"] for row in rows}

    def cell(heard: str, policy: str) -> str:
        if (heard, policy) not in load:
            return "-"
        mine, whole = load[heard, policy], load.get(("every batch", policy))
        if mine is None:
            return f"below {LOADS[0]:g}"
        said = f"{mine:.3f}" if mine < LOADS[1] else f"above {LOADS[1]:g}"
        is_known = whole is not None and max(mine, whole) < LOADS[1]
        return f"{said} ({100 * (mine / whole - 1):+.0f} %)" if is_known else said

    told_of = [name for name in HEARD if any((name, policy) in load for policy in policies)]
    lines = [[heard, *(cell(heard, policy) for policy in policies)] for heard in told_of]
    return grid([f"largest load with {SLO}", *(f"`{each}`" for each in policies)], lines)


def at_fixed_load(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of latencies, of reports and of drifts at one load."""
    names = (*LATENCIES, *COUNTS, *DRIFTS)
    lines = [
        [row["heard"], f"`{row['policy']}`",
         *(_told(row.get(name)) for name in names)]
        for row in rows
    ]  # fmt: skip
    head = [f"at load {FIXED:g}", "policy", *(each.replace("_", " ") for each in names)]
    return grid(head, lines, left=2)


def _told(value: float | None) -> str:
    """Return a number in words, counts whole."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def told(began: float, done: int, total: int) -> None:
    """Say how far the study is."""
    print(f"{done} of {total}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", required=True, help="file of lengths, such as ShareGPT's")
    parser.add_argument("--quick", action="store_true", help="half of the requests, one seed")
    parser.add_argument("--requests", type=int, help="of a run, instead of 1500")
    parser.add_argument("--seeds", type=int, help="instead of 2: a few tell a load to some percent")
    parser.add_argument("--heard", nargs="+", default=list(HEARD), choices=list(HEARD))
    parser.add_argument("--fixed", action="store_true", help="seek no capacities")
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--workers", type=whole, default=1)
    parser.add_argument("--out", required=True, help="beginning of the names of journal and JSON")
    given = parser.parse_args(words)
    requests, seeds = (REQUESTS // 2, 1) if given.quick else (REQUESTS, SEEDS)
    requests, seeds = given.requests or requests, given.seeds or seeds
    study = study_of(given.lengths, requests, seeds, given.heard, seeks=not given.fixed)
    points = [
        (heard, policy)
        for heard, routing in study.heard.items()
        for policy in routing.policies
        if policy in given.policies
    ]
    journal = Journal(f"{given.out}.journal", identity(given.lengths, study, points), len(points))
    rows = sweep(point_in, study, points, journal, workers=given.workers,
                 progress=partial(told, time.monotonic()))  # fmt: skip
    journal.close()
    Path(f"{given.out}.json").write_text(json.dumps(rows))
    minutes = math.fsum(row["cpu"] for row in rows) / 60
    print(f"{INSTANCES} servers, {requests} requests a run, {seeds} seeds, {minutes:.0f} minutes "
          "of one core.")  # fmt: skip
    if study.seeks:
        print(f"\n{capacities(rows, given.policies)}")
    print(f"\n{at_fixed_load(rows)}")


if __name__ == "__main__":
    from sync_ablation import main as of_module  # workers find functions of a module

    run(of_module)
