"""Put routing policies side by side over cells of engine, fleet, arrivals and load.

    python benchmarks/routing_cells.py --out cells                           # 15 minutes
    python benchmarks/routing_cells.py --out server --engine vllm_v1 \
        --lengths lengths_sharegpt_val_10k.csv.gz --trace azure_2023_conv.csv     # 30 minutes
    python benchmarks/routing_cells.py --out quick --quick                   # 1 minute

Where does prediction help, and where not? Every policy gets the same requests. The best heuristic
of a cell is chosen on seeds of its own, so that no policy is judged by the draws that chose it.
Prints Markdown; OUT.json has every run. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from given import positive, run, whole
from numpy.typing import NDArray
from routing_tables import tables

from fluidserve import config
from fluidserve.inputs import load_config_of
from fluidserve.jobs.kept import digest_of_file, identity_of, identity_of_routing
from scheduling.experiment import Routing, row_of
from scheduling.policies import POLICIES
from serving import DecodeNode, Instance, RequestTable
from studies import Question
from studies.sweeps import Journal, sweep
from workload import Workload, describe, read_trace

HEURISTICS = (
    *(name for name, entry in POLICIES.items() if not entry.asks and name != "prefix-affinity"),
    "jsq@2",
)
"""Policies that ask no predictor; no request here has a prefix."""

PREDICTED = ("predicted-ttft", "predicted-e2el", "predicted-cost", "predicted-total")

REQUESTS = {"decode_node": 3000, "vllm_v1": 1000}
"""Requests of a run, the first tenth of which no latency counts."""

LOADS, QUICK_LOADS = (0.7, 0.8, 0.9, 0.95), (0.9,)
JUDGED, CHOSEN_FROM = range(5), range(100, 105)
"""Seeds that policies are judged by, and those on which the best heuristic is chosen."""

FLEETS = {"8 alike": (8, 0), "12 alike": (12, 0), "8, 4 slow": (8, 4)}
"""Instances, and how many of them are slower."""

SLOWER = 2.0
"""How much longer the batches of a slow instance take."""

BURSTY = 2.5
"""Standard deviation of the gaps of bursty arrivals over their mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed(Workload):
    """A stream with the gaps of a trace, from a place drawn by the seed on, scaled to the rate.

    Parameters
    ----------
    gaps : shape (G,) [time]
        Of the trace, which goes round.
    """

    gaps: tuple[float, ...] = ()

    def sample(
        self,
        seed: int | np.random.SeedSequence = 42,
        *,
        num_requests: int | None = None,
        horizon: float | None = None,
    ) -> RequestTable:
        """Return one draw; see :meth:`workload.Workload.sample`."""
        table = Workload.sample(self, seed, num_requests=num_requests, horizon=horizon)
        gaps = np.array(self.gaps)
        first = int(np.random.default_rng(seed).integers(gaps.size))
        mine: NDArray[np.float64] = gaps[(first + np.arange(len(table))) % gaps.size]
        times = np.cumsum(mine) / (mine.mean() * self.rate)
        return RequestTable.validated(times, table.prefill_length, table.decode_length)


@dataclass(frozen=True, eq=False)
class Study:
    """All cells, each an experiment, by their names."""

    cells: Mapping[tuple[str, str], Routing]


def row_in(study: Study, point: tuple[tuple[str, str], float, int, str]) -> dict[str, Any]:
    """Return the row of a run of a cell, and the processor time that it took [s]."""
    (fleet, arrivals), load, seed, policy = point
    began = time.process_time()
    row = row_of(study.cells[fleet, arrivals], (load, seed, policy))
    return {"fleet": fleet, "arrivals": arrivals, "cpu": time.process_time() - began} | row


def instance_of(engine: str) -> Instance:
    """Return the instance that a fleet is made of."""
    if engine == "decode_node":
        return DecodeNode()
    named = {"model": "Llama-3.1-8B", "hardware": "RTX4090"}
    return config.instance_of(load_config_of(named))


def streams(given: argparse.Namespace) -> dict[str, Workload]:
    """Return the arrivals by name, of the same lengths."""
    base = describe(lengths=given.lengths) if given.lengths else describe("normal")
    found = {"Poisson": base, "bursty": replace(base, burstiness=BURSTY**-2)}
    if given.trace:
        gaps = np.diff(read_trace(given.trace).requests.arrival_time)
        found["trace"] = Replayed(base.mix, base.rate, gaps=tuple(gaps.tolist()))
    return found


def study_of(given: argparse.Namespace, loads: Sequence[float], requests: int) -> Study:
    """Return the cells that are asked for."""
    one = instance_of(given.engine)
    slow = replace(cast(Any, one), batch_time=one.batch_time.in_unit(SLOWER))
    cells = {}
    for arrivals, stream in streams(given).items():
        question = Question(stream, one, num_requests=requests)
        for fleet, (size, slower) in FLEETS.items():
            instances = (*[one] * (size - slower), *[slow] * slower)
            cells[fleet, arrivals] = Routing(
                question, instances, (*HEURISTICS, *PREDICTED), tuple(loads)
            )
    return Study(cells)


def points_of(study: Study, loads: Sequence[float], seeds: int) -> list[Any]:
    """Return every run: all policies on the seeds that judge, heuristics on those that choose."""
    return [
        (cell, load, seed, policy)
        for cell in study.cells
        for load in loads
        for several, policies in (
            (JUDGED, (*HEURISTICS, *PREDICTED)),
            (CHOSEN_FROM, HEURISTICS),
        )
        for seed in several[:seeds]
        for policy in policies
    ]


def identity(given: argparse.Namespace, study: Study, points: Sequence[Any]) -> str:
    """Return what names this study, so that a journal of another one is refused."""
    files = [digest_of_file(each) for each in (given.lengths, given.trace) if each]
    cells = [[cell, identity_of_routing(routing)] for cell, routing in study.cells.items()]
    return identity_of(files, points, cells)


def told(began: float, done: int, total: int) -> None:
    """Say how far the study is."""
    print(f"{done} of {total} runs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="decode_node", choices=sorted(REQUESTS))
    parser.add_argument("--lengths", help="file of lengths instead of the scenario 'normal'")
    parser.add_argument("--trace", help="file whose arrivals are a further kind of arrivals")
    parser.add_argument("--loads", type=positive, nargs="+", help="instead of .7 .8 .9 .95")
    parser.add_argument("--requests", type=whole, help="of a run, instead of 3000 or 1000")
    parser.add_argument("--quick", action="store_true", help="one load, 3 seeds, a third as many")
    parser.add_argument(
        "--all", action="store_true", help="list the cells of every load, not of .9"
    )
    parser.add_argument("--workers", type=whole, default=1)
    parser.add_argument("--out", required=True, help="beginning of the names of journal and JSON")
    given = parser.parse_args(words)
    requests = given.requests or REQUESTS[given.engine] // (3 if given.quick else 1)
    loads, seeds = (QUICK_LOADS, 3) if given.quick else (LOADS, len(JUDGED))
    loads = tuple(given.loads or loads)
    study = study_of(given, loads, requests)
    points = points_of(study, loads, seeds)
    journal = Journal(f"{given.out}.journal", identity(given, study, points), len(points))
    rows = sweep(row_in, study, points, journal, workers=given.workers,
                 progress=partial(told, time.monotonic()))  # fmt: skip
    journal.close()
    about = {
        "engine": given.engine, "requests": requests, "loads": loads,
        "seeds": [*JUDGED[:seeds]], "chosen_from": [*CHOSEN_FROM[:seeds]],
        "cpu": math.fsum(row["cpu"] for row in rows), "slower": SLOWER, "bursty": BURSTY,
    }  # fmt: skip
    Path(f"{given.out}.json").write_text(json.dumps(about | {"runs": rows}))
    print(tables(about, rows, PREDICTED, every_load=given.all))


if __name__ == "__main__":
    from routing_cells import main as of_module  # workers find functions of a module

    run(of_module)
