"""``tune replicas`` on a trace beside every fleet from one instance on, or policies side by side.

    python benchmarks/replicas.py --trace azure_2023_conv.csv                     # a minute
    python benchmarks/replicas.py --trace azure_2023_conv.csv --at 5 \
        --policies jsq,jsq-own,pending-prefill,regression,predicted-ttft          # 10 minutes

Per policy: what the search answers and how many fleets it ran; a table of every number of instances
from 1 to the answer and three more; and whether the answer is the least of them that meets the
objectives. Exit status 1 where it is not, or there is none. Then GPU-hours, beside those of a
perfect system. With ``--at`` the tables give way to one: the policies with so many instances, and
how the objectives of each differ from those of the first policy, paired by blocks of the trace.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any

from given import positive, run, whole
from routing_tables import grid, percent
from scipy.stats import t

from fluidserve.inputs import load_inputs
from fluidserve.text import number
from scheduling.fleet_size import FleetSize, sized
from scheduling.gpu_time import gpu_time
from scheduling.replicas import Replicas, least_replicas
from scheduling.sizing import BLOCKS, Sizing, jackknife_error, margins_without, row_of
from serving import LatencySamples
from studies.question import Question
from studies.tuning import Slo, parse_slo

FURTHER = 3
"""Fleets above the answer that are run."""

CONFIDENCE = 0.95
"""Of the interval of a difference."""


class Fleets:
    """Fleets of one policy for a trace, each of which is run once."""

    def __init__(self, question: Question, policy: str, slos: tuple[Slo, ...]) -> None:
        self.sizing = Sizing(question, slos, policy)
        self._rows: dict[int, dict[str, Any]] = {}
        self.samples: dict[int, LatencySamples] = {}

    def row(self, replicas: int, run: int) -> dict[str, Any]:
        """Return the row of a run."""
        if replicas not in self._rows:
            done = self.sizing.run(replicas, run)
            self.samples[replicas] = done.samples
            self._rows[replicas] = row_of(self.sizing, done, run)
        return self._rows[replicas]

    def of(self, replicas: int) -> FleetSize:
        """Return a fleet."""
        return sized(self.sizing, replicas, self.row)

    def found(self) -> Replicas:
        """Search for the least fleet, and say what came out."""
        start = time.perf_counter()
        found = least_replicas(self.sizing, measure=self.row)
        seconds = time.perf_counter() - start
        told = f"guess {found.guess}, {found.runs} runs, {seconds:.0f} s"
        print(f"{self.sizing.policy}: {found.reason} ({told})", flush=True)
        return found


def confirmed(fleets: Fleets) -> bool:
    """Print answer, table and GPU-hours; return whether the table confirms the answer."""
    found = fleets.found()
    if found.value is None or found.answer is None:
        return False
    names = list(found.answer.values)
    met, rows = [], []
    for replicas in range(1, found.value + FURTHER + 1):
        size = fleets.of(replicas)
        met.append(size.met)
        told = [_with_error(size, name) for name in names]
        hours = number(gpu_time(size).to_json()["gpu_hours"])
        rows.append([str(replicas), "yes" if size.met else "no", *told, hours])
    print(grid(["instances", "met", *names, "GPU-hours"], rows, left=2))
    used = gpu_time(found.answer).to_json()
    print("GPU-hours", number(used["gpu_hours"]), "perfect system", used["perfect_system"])
    least = met.index(True) + 1 if any(met) else None
    print(f"least of all: {least}; monotone: {met == sorted(met)}\n", flush=True)
    return least == found.value


def _with_error(size: FleetSize, name: str) -> str:
    value, error = number(size.values[name]), size.errors[name]
    return value if error is None else f"{value} +- {error:.2g}"


def side_by_side(fleets: Mapping[str, Fleets], replicas: int) -> str:
    """Return the table of policies with so many instances, against the first of them."""
    first, rows = next(iter(fleets.values())), []
    slos = first.sizing.slos
    for policy, mine in fleets.items():
        found, size = mine.found(), mine.of(replicas)
        least = "-" if found.value is None else str(found.value)
        row = [f"`{policy}`", least, "yes" if size.met else "no"]
        for slo in slos:
            row += [_with_error(size, slo.name), _change(slo, mine, first, replicas)]
        rows.append(row)
    to = first.sizing.policy
    head = [word for slo in slos for word in (slo.name, f"against `{to}`")]
    return grid(["policy", "instances needed", f"met with {replicas}", *head], rows)


def _change(slo: Slo, mine: Fleets, first: Fleets, replicas: int) -> str:
    """Return the relative change of a statistic with its interval, by the same blocks of both."""
    if mine is first:
        return "-"
    pair = (mine, first)
    name = str(slo)
    ours, other = (each.row(replicas, 0)["values"][name] for each in pair)
    without = [margins_without(slo, getattr(f.samples[replicas], slo.latency)) for f in pair]
    half = math.nan
    if without[0] is not None and without[1] is not None:
        error = jackknife_error(without[0] - without[1])
        half = error * float(t.ppf(0.5 + CONFIDENCE / 2, BLOCKS - 1))
    return percent((ours / other - 1, half * ours / other))


def main(words: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", required=True)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B")
    parser.add_argument("--hardware", default="RTX4090")
    parser.add_argument("--rate-scale", type=positive)
    parser.add_argument("--policies", default="jsq")
    parser.add_argument("--slo", action="append")
    parser.add_argument("--at", type=whole, help="instances with which policies stand side by side")
    given = parser.parse_args(words)
    inputs = load_inputs(
        {
            "trace": given.trace, "model": given.model, "hardware": given.hardware,
            "rate_scale": given.rate_scale,
        }
    )  # fmt: skip
    question, unit = inputs.question, inputs.instance.time_unit
    slos = tuple(parse_slo(s, unit) for s in given.slo or ["p99_ttft<1", "p99_tpot_ms<30"])
    fleets = {name: Fleets(question, name, slos) for name in given.policies.split(",")}
    if given.at is not None:
        print(side_by_side(fleets, given.at))
        return 0
    return int(not all([confirmed(each) for each in fleets.values()]))


if __name__ == "__main__":
    run(main)
