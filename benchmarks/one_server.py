"""Latencies of one vLLM server in equilibrium against the engine, on random servers, worst first.

    python benchmarks/one_server.py --servers 40
    python benchmarks/one_server.py --servers 40 --lengths FILE --lengths FILE

Every server has a random law, 8 to 200 requests that fit, seats or KV as its limit, and one of the
loads. The engine serves four times 15,000 requests; nothing is fitted. Prints a Markdown table, and
by load the median deviation and how many are more than 10 % off.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import capacity, saturation
from ode import stationary
from serving import BatchTimeLaw, RequestMix, VllmV1
from workload import Workload, describe

LOADS = (0.3, 0.6, 0.8, 0.9, 0.95)
RUNS, REQUESTS, FIRST = 4, 15_000, 1_000
"""Runs of the engine, requests of each, and how many of them do not count."""

STATISTICS = ("TTFT mean", "TTFT p50", "TTFT p95", "TTFT p99", "E2EL mean", "E2EL p95", "E2EL p99")
PERCENTILES = {"TTFT": (50, 95, 99), "E2EL": (95, 99)}


class Row(NamedTuple):
    """A server, how far its statistics are off, and the error of the engine's mean TTFT."""

    name: str
    load: float
    deviation: NDArray[np.float64]
    error: float


def main() -> None:
    parser = argparse.ArgumentParser(description="One vLLM server against the engine.")
    parser.add_argument("--servers", type=int, default=40)
    parser.add_argument("--lengths", action="append", default=[], help="a trace or lengths file")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    lengths = np.random.default_rng(0)
    mixes = {"normal": describe("normal").mix}
    mixes["even"] = RequestMix.from_lengths(
        lengths.integers(100, 1000, 500), lengths.integers(50, 400, 500)
    )
    for file in chosen.lengths:
        mixes[file.rsplit("/", 1)[-1].split(".")[0]] = describe(lengths=file).mix
    rows = [measured(rng, mixes, number) for number in range(chosen.servers)]
    print(table_of(rows))
    print()
    print(summary_of(rows))


def measured(rng: np.random.Generator, mixes: dict[str, RequestMix], number: int) -> Row:
    """Return how far the prediction of a random server is off."""
    name = str(rng.choice(list(mixes)))
    mix, load = mixes[name], float(rng.choice(LOADS))
    node = random_server(rng, mix)
    rate = load * capacity(mix, node)
    runs = []
    for run in range(RUNS):
        seed = np.random.SeedSequence(7, spawn_key=(number, run))
        drawn = Workload(mix, rate).sample(seed, num_requests=REQUESTS)
        runs.append(discrete.simulate(drawn, node, record_batches=False).samples(FIRST))
    measured = {key: np.concatenate([run.of(key)[0] for run in runs]) for key in ("ttft", "e2el")}
    found = stationary(mix, node, rate).latencies
    deviation = []
    for name_of, percentiles in PERCENTILES.items():
        of, values = found[name_of.lower()], measured[name_of.lower()]
        deviation.append(of.mean / values.mean() - 1)
        deviation += [of.percentiles[q] / np.percentile(values, q) - 1 for q in percentiles]
    means = np.array([run.of("ttft")[0].mean() for run in runs])
    full = saturation(mix, node)
    words = f"{name}, {full.batch_size:.0f} requests, {getattr(full, 'binds', '')}"
    return Row(words, load, np.array(deviation), float(means.std(ddof=1) / 2 / means.mean()))


def random_server(rng: np.random.Generator, mix: RequestMix) -> VllmV1:
    """Return a server with a random law, size and limit."""
    law = BatchTimeLaw(
        d_0=10 ** rng.uniform(-2.3, -1.5),
        d_decode=10 ** rng.uniform(-5.5, -3.8),
        d_kv=10 ** rng.uniform(-8, -6.5),
        d_prefill=10 ** rng.uniform(-5, -3.8),
        d_prefill_attention=10 ** rng.uniform(-10, -8.5),
    )
    mean, largest = mix.mean_prefill + mix.mean_decode, float((mix.prefill + mix.decode).max())
    fit, memory = 10 ** rng.uniform(0.9, 2.3), bool(rng.random() < 0.5)
    tokens = max(fit * mean, 1.2 * largest) if memory else 300 * max(mean, largest / 20)
    sized = VllmV1(
        batch_time=law,
        num_gpu_blocks=int(tokens / 16) + 2,
        max_num_batched_tokens=int(rng.choice([2048, 8192])),
        async_scheduling=bool(rng.random() < 0.7),
    )
    return sized if memory else replace(sized, max_num_seqs=int(fit))


def table_of(rows: list[Row]) -> str:
    """Return the servers as a Markdown table, the worst mean TTFT first."""
    lines = [
        "| server | load | engine's error | " + " | ".join(STATISTICS) + " |",
        "|---|---:|---:|" + "---:|" * len(STATISTICS),
    ]
    for row in sorted(rows, key=lambda row: -abs(row.deviation[0])):
        cells = " | ".join(f"{each:+.1%}" for each in row.deviation)
        lines.append(f"| {row.name} | {row.load:g} | {row.error:.1%} | {cells} |")
    return "\n".join(lines)


def summary_of(rows: list[Row]) -> str:
    """Return by load: median deviation and share more than 10 % off, of every statistic."""
    lines = ["| load | servers | " + " | ".join(STATISTICS) + " |"]
    lines.append("|---|---:|" + "---:|" * len(STATISTICS))
    for loads in ((0.3, 0.6), (0.8,), (0.9, 0.95)):
        of = np.array([row.deviation for row in rows if row.load in loads])
        if not of.size:
            continue
        typical, off = np.median(np.abs(of), axis=0), (np.abs(of) > 0.1).mean(axis=0)
        cells = " | ".join(f"{a:.1%} ({b:.0%})" for a, b in zip(typical, off, strict=True))
        lines.append(f"| {' to '.join(f'{each:g}' for each in loads)} | {len(of)} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
