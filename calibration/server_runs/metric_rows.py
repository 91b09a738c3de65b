"""Batches between the scrapes of a server's metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.metrics import MetricsLog
from serving import WorkloadError


def rows_of_metrics(
    log: MetricsLog, *, kv_capacity: float | None = None, remote_prefill: bool = False
) -> BatchRows:
    """Return the batches between scrapes in which requests ran throughout.

    The number of batches is that of ``iterations`` where the server tells; else, as every batch
    gives each running request a token, tokens over running requests (the mean inter-token latency
    would weigh batches by their requests). KV in tokens is its share times the capacity, or what
    came in less what left, or where neither is told the share itself.

    Parameters
    ----------
    log
        The metrics.
    kv_capacity : [tokens]
        Of the server, if known; over what the log says.
    remote_prefill
        Prompts come with their KV (a decode node) and cost no computation.
    """
    span = np.diff(log.time)
    running = (log.running[1:] + log.running[:-1]) / 2
    generated = np.diff(log.generation_tokens)
    if log.iterations is not None:
        steps = np.diff(log.iterations)
    else:
        steps = np.divide(generated, running, out=np.zeros_like(span), where=running > 0)
    capacity = kv_capacity or log.kv_capacity
    kv, is_share = held_tokens(log), False
    if log.kv_usage is not None and (capacity or kv is None):
        kv, is_share = log.kv_usage * (capacity or 1.0), not capacity
    busy = (np.minimum(log.running[1:], log.running[:-1]) > 0) & (generated > 0) & (steps > 0)
    if busy.sum() < 4:
        raise WorkloadError(f"requests ran and tokens came in {busy.sum()} intervals; 4 are needed")
    m = steps[busy]
    decode = running[busy] if log.iterations is None else generated[busy] / m
    prefill = np.zeros(m.size) if remote_prefill else np.diff(log.prompt_tokens)[busy] / m
    return BatchRows(
        ((log.time[1:] + log.time[:-1]) / 2)[busy], m, prefill, decode,
        None if kv is None else ((kv[1:] + kv[:-1]) / 2)[busy], span[busy] / m,
        kv_is_share=is_share,
    )  # fmt: skip


def held_tokens(log: MetricsLog) -> NDArray[np.float64] | None:
    """Return the tokens of unfinished requests at each scrape, shape (T,); None if not told.

    What came in less what left, since a moment without requests in the log; prefix hits count as
    held by every request that shares them.
    """
    if log.finished_prompt_tokens is None or log.finished_generation_tokens is None:
        return None
    inside = log.prompt_tokens + log.generation_tokens
    left = log.finished_prompt_tokens + log.finished_generation_tokens
    idle = log.running == 0
    if log.waiting is not None:
        idle &= log.waiting == 0
    if not idle.any():
        return None
    held = inside - left
    return held - held[np.argmax(idle)]
