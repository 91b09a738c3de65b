"""What preemptions cost a server with full memory: capacity and tokens computed again, as JSON.

Run it from anywhere: ``python benchmarks/preemption_cost.py [--lengths FILE ...]``. For each mix of
lengths, each size of the memory and the prefix cache on and off, the engine is offered 1.6 times
the capacity; its throughput and the tokens that it computes again, over completions, stand beside
the closed forms with and without preemptions. The law is that of a small card, nothing is fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from discrete import engine_for
from fluid import saturation
from fluid.prompt_server.life import life
from fluid.prompt_server.saturation import step_time
from serving import BatchTimeLaw, RequestMix, VllmV1, reading_of
from workload import Workload, describe, read_lengths

LAW = BatchTimeLaw(d_0=0.017, d_decode=3.9e-5, d_prefill=1e-4, d_kv=1.5e-7)
SIZES = (20, 80, 300, 1000)
LEAST, PER_REQUEST = 3000, 30
"""Requests of a run at least, and per request that fits."""


def server_for(mix: RequestMix, requests: int, *, caches: bool) -> VllmV1 | None:
    """Return a server whose memory holds so many requests; None where one hardly fits."""
    held = mix.probability @ (mix.prefill * mix.decode + mix.decode**2 / 2) / mix.mean_decode
    blocks = int(requests * held / 16) + 2
    if blocks * 16 < 1.5 * (mix.prefill + mix.decode).max():
        return None
    return VllmV1(
        batch_time=LAW, num_gpu_blocks=blocks, max_num_seqs=100_000,
        max_num_batched_tokens=200_000, enable_prefix_caching=caches,
    )  # fmt: skip


def row(name: str, mix: RequestMix, requests: int, *, caches: bool) -> dict | None:
    """Return one row of the table."""
    server = server_for(mix, requests, caches=caches)
    if server is None:
        return None
    full, node = saturation(mix, server), reading_of(server).node
    table = Workload(mix, 1.6 * full.throughput).sample(
        7, num_requests=max(LEAST, PER_REQUEST * requests)
    )
    engine = engine_for(table, server, record_batches=False)
    end = float(table.arrival_time[-1])
    engine.advance(until=end)
    run = engine.run()
    done = run.requests["completion_time"]
    done = done[np.isfinite(done)]
    measured = float(np.sum((done > 0.3 * end) & (done <= end))) / (0.7 * end)
    without = full.entering / float(step_time(life(mix, node), node, full.entering))
    return {
        "lengths": name,
        "requests_that_fit": requests,
        "prefix_cache": caches,
        "ends_per_step": full.entering,
        "engine_throughput": measured,
        "capacity_error": full.throughput / measured - 1,
        "capacity_error_without_preemptions": without / measured - 1,
        "engine_recomputed": run.metrics().totals["recompute_waste"] / done.size,
        "recomputed": full.recomputed / full.entering,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="*", default=[], help="traces whose lengths are taken")
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    asked = parser.parse_args()
    mixes = {name: describe(name).mix for name in ("normal", "heavy")}
    mixes["all alike"] = RequestMix.from_lengths([200], [200])
    mixes |= {Path(path).name: read_lengths(path) for path in asked.lengths}
    rows = []
    for name, mix in mixes.items():
        for requests in asked.sizes:
            for caches in (False, True):
                print(f"{name}, {requests} requests, cache {caches}", file=sys.stderr)
                rows.append(row(name, mix, requests, caches=caches))
    print(json.dumps([each for each in rows if each is not None], indent=2))


if __name__ == "__main__":
    main()
