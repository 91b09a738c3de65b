"""Speed of the discrete engine, as JSON: requests/s, batches/s, ratio to the plain reference.

Run it from anywhere: ``python benchmarks/engine_speed.py [--repeat 15]``. Kernel warm, no files,
best of several; ``requests_per_second`` counts everything from the request table to a finished
engine (allocation included), ``kernel_requests_per_second`` only the advancing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from discrete import engine_for
from serving import DecodeNode, RequestTable

ROOT = Path(__file__).parents[1]


def normal_requests(num_requests: int, load: float, node: DecodeNode, seed: int) -> RequestTable:
    """Return Poisson arrivals at ``load`` of 80 % short and 20 % long requests."""
    rng = np.random.default_rng(seed)
    short = rng.random(num_requests) < 0.8
    p = np.where(short, rng.integers(10, 61, num_requests), rng.integers(150, 201, num_requests))
    d = np.where(short, rng.integers(10, 41, num_requests), rng.integers(80, 101, num_requests))
    uniform = [np.arange(10, 61), np.arange(150, 201)], [np.arange(10, 41), np.arange(80, 101)]
    work = start = start_squared = 0.0
    for weight, prompts, decodes in zip((0.8, 0.2), *uniform, strict=True):
        work += weight * (prompts.mean() * decodes.mean() + (decodes * (decodes + 1) / 2).mean())
        start += weight * (prompts + 1).mean()
        start_squared += weight * ((prompts + 1.0) ** 2).mean()
    capacity = min(node.M_total, node.token_budget) - start_squared / (2 * start)
    law = node.batch_time
    rate = load * capacity / (work * (law.d_0 + law.d_kv * capacity))
    return RequestTable.validated(np.cumsum(rng.exponential(1 / rate, num_requests)), p, d)


def best(requests: RequestTable, node: DecodeNode, repeat: int, **options: Any) -> dict[str, float]:
    """Return the figures of the fastest of several runs."""
    whole, kernel, engine = [], [], None
    gc.disable()
    for _ in range(repeat):
        start = time.perf_counter()
        engine = engine_for(requests, node, **options)
        ready = time.perf_counter()
        engine.advance()
        end = time.perf_counter()
        whole.append(end - start)
        kernel.append(end - ready)
    gc.enable()
    assert engine is not None
    return {
        "requests": len(requests),
        "batches": engine.batch,
        "seconds": min(whole),
        "requests_per_second": len(requests) / min(whole),
        "kernel_requests_per_second": len(requests) / min(kernel),
        "batches_per_second": engine.batch / min(whole),
    }


def reference_seconds(requests: RequestTable, node: DecodeNode, repeat: int) -> float:
    """Return the time of the plain-Python engine of the tests, with nothing but request records."""
    path = ROOT / "tests" / "discrete" / "reference.py"
    spec = importlib.util.spec_from_file_location("decode_node_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seconds = []
    for _ in range(repeat):
        off = dict.fromkeys(("record_batches", "record_events", "record_tokens", "check"), False)
        engine = module.DecodeNodeReference(requests, node, **off)
        start = time.perf_counter()
        engine.run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def figures(repeat: int = 15, seed: int = 1) -> dict[str, Any]:
    """Return every figure of this benchmark."""
    busy, free = DecodeNode(), DecodeNode(B=None)
    table = normal_requests(100_000, 0.95, busy, seed)
    unlimited = normal_requests(5_000, 0.5, free, seed)
    fast = {"record_batches": False}
    best(normal_requests(1_000, 0.5, busy, seed), busy, 1)
    out: dict[str, Any] = {
        "normal_load_0.95_B_2000": best(table, busy, repeat, **fast),
        "normal_load_0.95_B_2000_batch_rows": best(table, busy, repeat),
        "normal_load_0.5_B_none": best(unlimited, free, 4 * repeat, **fast),
    }
    engine = out["normal_load_0.95_B_2000"]
    plain = reference_seconds(table, busy, 5)
    out["reference"] = {
        "requests_per_second": len(table) / plain,
        "seconds": plain,
        "ratio": plain / engine["seconds"],
    }
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    print(json.dumps(figures(parser.parse_args().repeat), indent=2))
