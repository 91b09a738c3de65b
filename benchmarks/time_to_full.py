"""Hold the mean time to a full memory against the engine, and learn how far off it is.

    python benchmarks/time_to_full.py run --rows fills.jsonl              # 60 + 40 nodes, minutes
    python benchmarks/time_to_full.py run --rows fills.jsonl --nodes 8    # quick
    python benchmarks/time_to_full.py learn --rows fills.jsonl            # coefficients, coverage

A number stands for a node of 15 to 500 requests with one prompt length and decode lengths that are
alike, uniform, gamma or geometric, under Poisson arrivals at a load of .85 to 1.1. Nodes whose
memory fills in 3 to 200 stays of a request are run, 24 times each. Odd numbers teach the
coefficients of ``ode.full_memory.first_full``, even ones are judged. ``run`` goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluid import capacity, mean_time_to_full, saturation
from ode.full_memory.first_full import FEATURES, features, time_to_full
from serving import BatchTimeLaw, DecodeNode, RequestMix
from studies import Question
from studies.full_memory import times_to_full
from workload import Workload

RUNS = 24
FILLS = (3.0, 200.0)
"""Stays of a request within which the memory of a node must fill to be asked."""

COVERS, NORMAL = 0.9, 1.645

PENALTY = 0.002
"""Weight of the sum of absolute coefficients against the mean deviation."""


def case_of(number: int) -> tuple[RequestMix, DecodeNode, float] | None:
    """Return the mix, the node and the rate of a number; None if its memory fills too late."""
    rng = np.random.default_rng([77, number])
    p, d = (float(np.exp(rng.uniform(math.log(low), math.log(high)))) for low, high in
            ((5, 500), (8, 120)))  # fmt: skip
    family = int(rng.integers(4))
    if family == 0:
        decode = np.full(1, d)
    elif family == 1:
        half = rng.uniform(0.1, 0.95)
        decode = rng.uniform(d * (1 - half), d * (1 + half), 300)
    elif family == 2:
        shape = rng.uniform(1.0, 12.0)
        decode = rng.gamma(shape, d / shape, 300)
    else:
        decode = rng.exponential(d, 300)
    decode = np.maximum(np.ceil(decode), 1).astype(np.int64)
    mix = RequestMix.from_lengths(
        np.full(decode.size, math.ceil(p)), decode, np.full(decode.size, 1.0 / decode.size)
    )
    fit = float(np.exp(rng.uniform(math.log(15), math.log(500))))
    memory = int(max(fit * mix.work / mix.mean_decode, 1.05 * (math.ceil(p) + decode.max()) + 1))
    growth = float(np.exp(rng.uniform(math.log(0.3), math.log(30))))
    law = BatchTimeLaw.per_token(1.0, growth / memory)
    node = DecodeNode(M_total=memory, B=None, batch_time=law, mode="sacrifice")
    rate = float(rng.uniform(0.85, 1.1)) * capacity(mix, node)
    stay = mix.mean_decode * saturation(mix, node).batch_time
    expected = mean_time_to_full(mix, node, rate)
    return (mix, node, rate) if FILLS[0] * stay < expected < FILLS[1] * stay else None


def row_of(number: int) -> dict[str, Any] | None:
    """Return what model and engine say of a node."""
    found = case_of(number)
    if found is None:
        return None
    mix, node, rate = found
    expected = mean_time_to_full(mix, node, rate)
    question = Question(Workload(mix, rate), node, seed=number)
    times = times_to_full(question, runs=RUNS, expected=1.5 * expected)
    return {
        "number": number,
        "expected": expected,
        "engine": float(times.mean()),
        "error": float(times.std(ddof=1) / math.sqrt(RUNS) / times.mean()),
        "features": features(mix, node, rate),
    }


def run(given: argparse.Namespace) -> None:
    """Run the nodes that are left."""
    there = rows_in(given.rows) if given.rows.exists() else []
    number = 1 + max((row["number"] for row in there), default=-1)
    count = len(there)
    with open(given.rows, "a", encoding="utf-8") as file:
        while count < given.nodes:
            row, number = row_of(number), number + 1
            if row is not None:
                count += 1
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{count} of {given.nodes} nodes", file=sys.stderr, flush=True)


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def medians(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of a linear median, by linear programming.

    Parameters
    ----------
    x : shape (N, T)
        Terms; the first is 1 and bears no penalty.
    y : shape (N,)
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, hstack

    n, t = x.shape
    cost = np.full(t, PENALTY)
    cost[0] = 0.0
    matrix = hstack([x, -x, eye_array(n), -eye_array(n)]).tocsc()
    losses = np.full(2 * n, 0.5 / n)
    found = linprog(
        np.concatenate([cost, cost, losses]), A_eq=matrix, b_eq=y, bounds=(0, None), method="highs"
    )
    return found.x[:t] - found.x[t : 2 * t]


def learn(given: argparse.Namespace) -> None:
    """Print coefficients that odd numbers teach, and how those in use do on even ones."""
    rows = rows_in(given.rows)
    teach = [row for row in rows if row["number"] % 2]
    x = np.array([[row["features"][name] for name in FEATURES] for row in teach])
    off = np.array([math.log(row["expected"] / row["engine"]) for row in teach])
    noise = np.array([row["error"] for row in teach])
    bias = medians(x, off)
    left = np.sqrt(np.maximum((off - x @ bias) ** 2 - noise**2, 0.0))
    half = float(np.quantile(left, min(1.0, COVERS * (1 + 1 / left.size))))
    print(json.dumps({"bias": dict(zip(FEATURES, bias.round(4).tolist(), strict=True)),
                      "half_width": round(half, 4), "cases": len(teach)}))  # fmt: skip
    inside, plain = [], []
    for row in (row for row in rows if not row["number"] % 2):
        mix, node, rate = case_of(row["number"])  # type: ignore[misc]
        error = time_to_full(mix, node, rate).error
        found = math.log(row["expected"] / row["engine"])
        seen = math.hypot(error.half_width, NORMAL * row["error"])
        inside.append(abs(found - error.bias) <= seen)
        plain.append(found)
    print(f"judged: {sum(inside)} of {len(inside)} inside of their interval; expected over engine "
          f"{np.exp(np.quantile(plain, (0.05, 0.5, 0.95))).round(2).tolist()} "
          "(5 %, median, 95 %)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure, resumable")
    runs.add_argument("--nodes", type=int, default=100)
    runs.set_defaults(do=run)
    learns = commands.add_parser("learn", help="print coefficients and coverage")
    learns.set_defaults(do=learn)
    for each in (runs, learns):
        each.add_argument("--rows", type=Path, required=True)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
