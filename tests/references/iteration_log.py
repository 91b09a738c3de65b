"""The log of a server of known law that says its iterations, as vLLM writes it."""

from __future__ import annotations

import numpy as np
from chunked_prefill_server import serve

LAW = np.array([0.0111, 4e-5, 1.2e-4, 9.07e-8])
GAP = np.array([8e-4, 9e-5])
CAPACITY, BLOCK = 400_000, 16


def served(count=500, noise=0.03, seed=0):
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1, count) * np.where(np.arange(count) // 25 % 2, 0.4, 0.08)
    return serve(np.cumsum(gaps), rng.integers(10, 900, count), rng.integers(20, 200, count), LAW,
                 noise=noise, seed=seed)  # fmt: skip


def line(index, end, prefill, decode, generation, elapsed, usage):
    clock = 86_390 + int(end)  # runs into the next day
    clock = f"{clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    return (
        f"(APIServer pid=7) INFO 11-28 {clock} [loggers.py:199] Engine 000: Iteration({index}): "
        f"{int(prefill > 0)} context requests, {prefill} context tokens, {decode} generation "
        f"requests, {generation} generation tokens, iteration elapsed time: {1e3 * elapsed:.2f} "
        f"ms, GPU KV cache usage: {100 * usage:.4f}%"
    )


def text(run, clock=True):
    """Return the log of a server whose time between steps is GAP, part of its batch times."""
    b = run.batches
    elapsed = b["duration"] - GAP[0] - GAP[1] * (b["decode"] + (b["prefill"] > 0))
    usage = (b["held"] + b["running"] * (BLOCK - 1) / 2) / CAPACITY
    lines = [
        line(10_165 + at, *(int(b[name][at]) if name != "end" else b[name][at]
             for name in ("end", "prefill", "decode", "decode")), elapsed[at], usage[at])
        for at in range(b["end"].size)
    ]  # fmt: skip
    lines.insert(3, "INFO 11-28 23:59:50 [loggers.py:259] Engine 000: Avg prompt throughput: 1")
    whole = "\n".join(["INFO starting", *lines]) + "\n"
    return whole if clock else whole.replace(" 23:59:", " ").replace(" 00:0", " ")
