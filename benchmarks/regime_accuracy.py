"""Hold capacity and regime of random nodes against the engine.

    python benchmarks/regime_accuracy.py run --rows regimes.journal             # 60 of each engine
    python benchmarks/regime_accuracy.py run --rows regimes.journal --nodes 6   # quick
    python benchmarks/regime_accuracy.py table --rows regimes.journal           # Markdown

Decode lengths are all alike, uniform or gamma of a CV up to .7; 5 to 500 requests fit; memory,
batch budget, seats, KV or tokens of a step bind; loads are .5 to 1.25. The engine runs from an
endless queue and from an empty start (``studies.engine_regime``). What its own scatter leaves open
is undecided: it is counted, and it is neither right nor wrong. ``run`` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluid import capacity, requests_that_fit
from ode import collapsed_throughput
from ode.error_model.capacity import capacity_error
from ode.regimes import regime_report
from serving import FluidServeError, Instance, RequestMix
from studies.campaign.scenarios import node_of, server_of
from studies.engine_regime import BEHIND, UNDECIDED, healthy_throughput, regime_by_engine
from studies.sweeps import Journal, sweep

ENGINES = ("decode_node", "vllm_v1")
SMALLEST, LARGEST = 5.0, 500.0
LOADS = (0.5, 1.25)
IS_BEHIND = ("backlogged", "limit_cycle")
"""Regimes of an instance that falls behind from any start."""


def lengths(rng: np.random.Generator) -> RequestMix:
    """Return lengths with light tails."""
    p, d = (float(np.exp(rng.uniform(math.log(low), math.log(high)))) for low, high in
            ((5, 2000), (8, 200)))  # fmt: skip
    family = rng.integers(3)
    if family == 0:
        sizes = np.full(1, p), np.full(1, d)
    elif family == 1:
        half = rng.uniform(0.1, 0.95, 2)
        sizes = tuple(m * rng.uniform(1 - h, 1 + h, 400) for m, h in zip((p, d), half, strict=True))
    else:
        shape = rng.uniform(2.0, 12.0, 2)
        sizes = tuple(rng.gamma(k, m / k, 400) for m, k in zip((p, d), shape, strict=True))
    prefill, decode = (np.maximum(np.ceil(each), 1).astype(np.int64) for each in sizes)
    return RequestMix.from_lengths(prefill, decode, np.full(prefill.size, 1.0 / prefill.size))


def case_of(number: int, seed: int) -> tuple[RequestMix, Instance, float]:
    """Return the mix, the instance and the load of a number."""
    rng = np.random.default_rng([seed, number])
    mix = lengths(rng)
    size = float(np.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))))
    make = node_of if ENGINES[number % 2] == "decode_node" else server_of
    return mix, make(rng, mix, size), float(rng.uniform(*LOADS))


def row_of(shared: tuple[int], number: int) -> dict[str, Any]:
    """Return what model and engine say of a node."""
    mix, instance, load = case_of(number, shared[0])
    row: dict[str, Any] = {"number": number, "engine": instance.engine, "load": load}
    try:
        most = capacity(mix, instance)
        queued = collapsed_throughput(mix, instance)
        found = regime_report(mix, instance, load * most)
        by_engine = regime_by_engine(mix, instance, load * most, seed=number)
        healthy, error = healthy_throughput(mix, instance, seed=number)
        return row | {
            "mode": getattr(instance, "mode", ""),
            "fit": requests_that_fit(mix, instance),
            "capacity": most,
            "queued": queued.throughput,
            "bounds": _bounds(capacity_error(mix, instance).between(most)),
            "queued_bounds": _bounds(
                capacity_error(mix, instance, "queued").between(queued.throughput)
            ),
            "lossy": queued.is_lossy,
            "regime": found.name,
            "confidence": found.confidence,
            "engine_capacity": healthy,
            "capacity_error": error,
            "engine_queued": by_engine.throughput,
            "queued_error": by_engine.error,
            "engine_regime": by_engine.name,
            "grows": by_engine.grows,
        }
    except FluidServeError as error:
        return row | {"failed": str(error)}


def _bounds(found: tuple[float, float]) -> tuple[float, float] | None:
    return found if math.isfinite(found[1]) else None


def run(given: argparse.Namespace) -> None:
    """Run the nodes that are left."""
    import regime_accuracy  # workers import functions by the name of a module, not of a script

    journal = Journal(given.rows, f"regimes, seed {given.seed}", 100_000)

    def told(done: int, total: int) -> None:
        print(f"{done} of {total} nodes", file=sys.stderr, flush=True)

    try:
        numbers = range(2 * given.nodes)
        sweep(
            regime_accuracy.row_of,
            (given.seed,),
            numbers,
            journal,
            workers=given.workers,
            progress=told,
        )
    finally:
        journal.close()


def same(model: str, engine: str) -> bool:
    """Return whether model and engine name the same regime."""
    return engine == (BEHIND if model in IS_BEHIND else model)


def table(given: argparse.Namespace) -> None:
    """Print the table."""
    journal = Journal(given.rows, f"regimes, seed {given.seed}", 100_000)
    rows = [row for row in journal.rows.values() if "failed" not in row]
    print("| engine | nodes | capacity within 1 % | in its interval | with a queue within 1 % "
          "| in its interval | regime right | wrong | undecided | wrong with high confidence |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    for engine in ENGINES:
        of = [row for row in rows if row["engine"] == engine]
        if of:
            print(f"| `{engine}` | {len(of)} | " + " | ".join(_counted(of)) + " |")
    wrong = [row for row in rows if row["engine_regime"] != UNDECIDED
             and not same(row["regime"], row["engine_regime"])]  # fmt: skip
    off = [row for row in rows if not _near(row, "capacity", 0.01)]
    for words, some in (("regime", wrong), ("capacity", off)):
        for row in some:
            print(words, {name: _short(value) for name, value in row.items()}, file=sys.stderr)
    journal.close()


def _counted(rows: list[Mapping[str, Any]]) -> list[str]:
    told = [row for row in rows if row["engine_regime"] != UNDECIDED]
    wrong = [row for row in told if not same(row["regime"], row["engine_regime"])]
    said = Counter(row["confidence"] for row in wrong)
    healthy = [row for row in rows if not (row["lossy"] and row["mode"] != "sacrifice")]
    return [
        _share(healthy, lambda row: _near(row, "capacity", 0.01)),
        _share(healthy, lambda row: _inside(row, "capacity", "bounds")),
        _share(rows, lambda row: _near(row, "queued", 0.01)),
        _share(rows, lambda row: _inside(row, "queued", "queued_bounds")),
        str(len(told) - len(wrong)), str(len(wrong)), str(len(rows) - len(told)),
        str(said["high"]),
    ]  # fmt: skip


def _near(row: Mapping[str, Any], name: str, within: float) -> bool:
    """Return whether model and engine are within so much, and two errors of the engine."""
    off = abs(row[name] / row[f"engine_{name}"] - 1.0)
    return off <= within + 2.0 * row[f"{name}_error"]


def _inside(row: Mapping[str, Any], name: str, bounds: str) -> bool:
    if row[bounds] is None:
        return False
    low, high = row[bounds]
    noise = 1.645 * row[f"{name}_error"]
    return low / (1 + noise) <= row[f"engine_{name}"] <= high * (1 + noise)


def _share(rows: list[Mapping[str, Any]], holds: Any) -> str:
    return f"{sum(holds(row) for row in rows)} of {len(rows)}"


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure, resumable")
    runs.add_argument("--nodes", type=int, default=60, help="of each engine")
    runs.add_argument("--workers", type=int)
    runs.set_defaults(do=run)
    tables = commands.add_parser("table", help="print what was measured")
    tables.set_defaults(do=table)
    for each in (runs, tables):
        each.add_argument("--rows", type=Path, required=True)
        each.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
