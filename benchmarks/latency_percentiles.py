"""Latencies of long-tailed lengths in a steady state: each method against the engine.

    python benchmarks/latency_percentiles.py
    python benchmarks/latency_percentiles.py --lengths azure_2023_conv.csv
    python benchmarks/latency_percentiles.py --load 0.2 --requests 2000 --methods stationary
    python benchmarks/latency_percentiles.py --burstiness 0.25 0.5 1 2 4 --load 0.8 --number 150000

Prints a Markdown table, a row for each method and workload: TTFT and E2EL, mean, p50, p95 and p99,
each as the deviation from the engine and the engine's own standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from serving import DecodeNode, RequestMix
from studies import Question
from studies.one_node import LATENCIES, STATISTICS, Cell, node_sized_for
from studies.steady_node import predicted_by, steady_cells
from workload import LengthDistribution, RequestClass, Workload, describe, mix_of

TAIL = 1e-6
"""Probability beyond the longest of the generated lengths."""

METHODS = "stationary,node_work,lagrangian"


def generated() -> dict[str, RequestMix]:
    """Return mixes with prompts of 100 tokens and 100 tokens to decode on average."""
    decode = {
        f"lognormal, CV {cv}": LengthDistribution.lognormal(100.0, cv, tail=TAIL)
        for cv in (1, 2, 3)
    }
    decode["geometric"] = LengthDistribution.geometric(100.0, tail=TAIL)
    prompt = LengthDistribution.deterministic(100)
    mixes = {name: mix_of([RequestClass(name, 1.0, prompt, of)]) for name, of in decode.items()}
    mixes["D = 10, or 3,000 of .2 %"] = RequestMix.from_lengths(
        [100, 100], [10, 3000], [0.998, 0.002]
    )
    return mixes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", nargs="*", default=[], help="traces or lengths-only files")
    parser.add_argument(
        "--burstiness", nargs="*", type=float, help="of the normal mix on the default node"
    )
    parser.add_argument("--load", type=float, default=0.2)
    parser.add_argument("--requests", type=float, default=2000.0, help="that fit in memory")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--number", type=int, default=40_000, help="requests of a run")
    chosen = parser.parse_args()
    methods = {name: predicted_by(name) for name in chosen.methods.split(",")}
    columns = [f"{latency.upper()} {each}" for latency in LATENCIES for each in STATISTICS]
    print("| workload | method | " + " | ".join(columns) + " |")
    print("|---|---|" + "---:|" * len(columns))
    for name, question in asked(chosen).items():
        cells = steady_cells(name, question, chosen.load, methods, number=chosen.number)
        print(row(name, "engine", [f"{c.engine:.4g} ± {c.standard_error:.1%}" for c in cells[:8]]))
        for k, method in enumerate(methods):
            print(row(name, method, [_deviation(c) for c in cells[8 * k : 8 * k + 8]]), flush=True)


def asked(chosen: argparse.Namespace) -> dict[str, Question]:
    """Return the questions that the options ask, by name."""
    if chosen.burstiness:
        return {
            f"burstiness {each:g}": Question(
                describe("normal", burstiness=each), DecodeNode(), seed=1
            )
            for each in chosen.burstiness
        }
    mixes = generated()
    if chosen.lengths:
        mixes = {
            Path(file).name.split(".")[0]: describe(lengths=file).mix for file in chosen.lengths
        }
    return {
        name: Question(Workload(mix, 1.0), node_sized_for(mix, chosen.requests), seed=1)
        for name, mix in mixes.items()
    }


def row(name: str, method: str, values: list[str]) -> str:
    """Return a row of the table."""
    return f"| {name} | {method} | " + " | ".join(values) + " |"


def _deviation(cell: Cell) -> str:
    return f"{cell.deviation:+.1%}"


if __name__ == "__main__":
    main()
