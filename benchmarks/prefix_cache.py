"""Compare the predicted hit share of the prefix cache with that of the engine vllm_v1.

Two workloads of conversations, each at three loads and four sizes of the memory, and the published
trace of Mooncake's conversations at three rates, if it is at hand:

    python benchmarks/prefix_cache.py [--quick] [--trace mooncake_conversation.jsonl.gz]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

import discrete
from fluidserve.config import instance_of, load_config
from fluidserve.profiled import profile_of
from serving import RequestTable, VllmV1
from studies.prefix_cache import PrefixCache
from workload import (
    Conversations,
    LengthDistribution,
    RequestClass,
    Workload,
    mix_of,
    read_trace,
)

LOADS = (0.8, 1.0, 1.3)


def server() -> VllmV1:
    """Return Llama-3.1-8B on an H100 as ``vllm serve`` starts it."""
    given = {"model": "Llama-3.1-8B", "hardware": "H100", "engine": "vllm_v1"}
    node = instance_of(load_config(None, {"engine": "vllm_v1"}, profile_of(given)))
    assert isinstance(node, VllmV1)
    return node


def chat(load: float, requests: int) -> RequestTable:
    """Return short turns after a system prompt."""
    turn = mix_of([RequestClass("turn", 1.0, LengthDistribution.uniform(50, 250),
                                LengthDistribution.uniform(100, 300))])  # fmt: skip
    talks = Conversations(turn, 6, 20.0, 0.01, 4, 1000)
    return _drawn(talks, 12.0 * load, requests)


def documents(load: float, requests: int) -> RequestTable:
    """Return turns that bring long documents."""
    turn = mix_of([RequestClass("turn", 1.0, LengthDistribution.uniform(1000, 5000),
                                LengthDistribution.uniform(200, 400))])  # fmt: skip
    return _drawn(Conversations(turn, 4, 60.0, 0.02), 2.5 * load, requests)


def _drawn(talks: Conversations, rate: float, requests: int) -> RequestTable:
    workload = Workload(talks.mix(), rate, conversations=talks)
    return workload.sample(np.random.SeedSequence(1), num_requests=requests)


def cases(
    trace: str | None, *, quick: bool
) -> Iterator[tuple[str, RequestTable, tuple[int, ...], int]]:
    """Yield the name, the requests, the sizes [blocks] and the seats of each case."""
    number = 1500 if quick else 8000
    for load in LOADS[1:2] if quick else LOADS:
        yield f"chat, {12 * load:g}/s", chat(load, number), (4000, 8000, 16_000, 60_000), 256
        name = f"documents, {2.5 * load:g}/s"
        yield name, documents(load, number // 2), (12_000, 20_000, 40_000, 120_000), 256
    if trace is not None:
        table = read_trace(trace).requests
        for factor in (0.25, 0.5) if quick else (0.25, 0.4, 0.5):
            name = f"Mooncake, {factor * len(table) / table.horizon:.2f}/s"
            yield name, table.stretched(1 / factor), (27_844, 120_000, 400_000, 1_500_000), 1024


def main() -> None:
    """Print a row for each case and size, the worst first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trace")
    options = parser.parse_args()
    node = server()
    rows = []
    for name, requests, sizes, seats in cases(options.trace, quick=options.quick):
        start = time.perf_counter()
        cache = PrefixCache(requests)
        read = time.perf_counter() - start
        for blocks in sizes:
            one = replace(node, num_gpu_blocks=blocks, max_num_seqs=seats)
            start = time.perf_counter()
            point = cache.on(one)
            took = time.perf_counter() - start
            start = time.perf_counter()
            found = discrete.simulate(requests, one, record_batches=False).totals()
            ran = time.perf_counter() - start
            off = point.hit_share - found["prefix_cache_hit_rate"]
            rows.append((name, blocks, found, point, off, took, ran, read))
    rows.sort(key=lambda row: -abs(row[4]))
    print("| requests | blocks | engine | predicted | off, points | running hold, engine "
          "| predicted | load | preempted | ms | engine, ms |")  # fmt: skip
    print("|---|" + "---:|" * 10)
    for name, blocks, found, point, off, took, ran, _ in rows:
        cells = [
            name, f"{blocks:,}", f"{100 * found['prefix_cache_hit_rate']:.2f} %",
            f"{100 * point.hit_share:.2f} %", f"{100 * off:+.2f}",
            f"{100 * found['memory_utilization']:.0f} %", f"{100 * point.held_share:.0f} %",
            f"{point.load:.2f}", f"{found['evictions']:.0f}", f"{1000 * took:.0f}",
            f"{1000 * ran:.0f}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    print(f"naming the prefixes: at most {1000 * max(row[-1] for row in rows):.0f} ms")


if __name__ == "__main__":
    main()
