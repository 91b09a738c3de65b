"""``tune replicas`` on a trace beside every fleet from one instance on (minutes).

Usage: python benchmarks/replicas.py --trace azure_2023_conv.csv [--policies jsq,round-robin] ...

Per policy: what the search answers and how many fleets it ran; a table of every number of instances
from 1 to the answer and three more; and whether the answer is the least of them that meets the
objectives. Exit status 1 where it is not. Then GPU-hours, beside those of a perfect system.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from typing import Any

from fluidserve.inputs import load_inputs
from fluidserve.text import number
from scheduling.fleet_size import sized
from scheduling.gpu_time import gpu_time
from scheduling.replicas import least_replicas
from scheduling.sizing import Sizing, measured
from studies.question import Question
from studies.tuning import parse_slo

FURTHER = 3
"""Fleets above the answer that are run."""


def confirmed(question: Question, policy: str, slos: list[str]) -> bool:
    """Print answer, table and GPU-hours; return whether the table confirms the answer."""
    unit = question.instance.time_unit
    sizing = Sizing(question, tuple(parse_slo(text, unit) for text in slos), policy)
    start = time.perf_counter()
    found = least_replicas(sizing)
    seconds = time.perf_counter() - start
    print(f"{policy}: {found.reason} (guess {found.guess}, {found.runs} runs, {seconds:.0f} s)")
    if found.value is None or found.answer is None:
        return False

    @cache
    def row(replicas: int, run: int) -> dict[str, Any]:
        return measured(sizing, replicas, run)

    names = list(found.answer.values)
    print("| instances | met |", " | ".join(names), "| GPU-hours |")
    print("|---|---|", "---|" * (len(names) + 1), sep="")
    met = []
    for replicas in range(1, found.value + FURTHER + 1):
        size = sized(sizing, replicas, row)
        met.append(size.met)
        told = [
            number(value) if (error := size.errors[name]) is None
            else f"{number(value)} +- {error:.2g}"
            for name, value in size.values.items()
        ]  # fmt: skip
        hours = number(gpu_time(size).to_json()["gpu_hours"])
        verdict = "yes" if size.met else "no"
        print(f"| {replicas} | {verdict} | {' | '.join(told)} | {hours} |", flush=True)
    used = gpu_time(found.answer).to_json()
    print("GPU-hours", number(used["gpu_hours"]), "perfect system", used["perfect_system"])
    least = met.index(True) + 1 if any(met) else None
    print(f"least of all: {least}; monotone: {met == sorted(met)}\n", flush=True)
    return least == found.value


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trace", required=True)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B")
    parser.add_argument("--hardware", default="RTX4090")
    parser.add_argument("--rate-scale", type=float)
    parser.add_argument("--policies", default="jsq")
    parser.add_argument("--slo", action="append")
    given = parser.parse_args()
    inputs = load_inputs(
        {
            "trace": given.trace, "model": given.model, "hardware": given.hardware,
            "rate_scale": given.rate_scale,
        }
    )  # fmt: skip
    slos = given.slo or ["p99_ttft<1", "p99_tpot_ms<30"]
    return int(not all([confirmed(inputs.question, p, slos) for p in given.policies.split(",")]))


if __name__ == "__main__":
    sys.exit(main())
