"""Two scrapes of a server's metrics tell the mean batch between them."""

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

    ``iterations`` counts the batches where the server tells them. Else the count is tokens over
    running requests, since every batch gives each running request a token (the mean inter-token
    latency would weigh batches by their requests). KV in tokens is the share in use times the
    capacity, else the tokens that came in less those that left, else the share itself.

    Parameters
    ----------
    log
        The metrics.
    kv_capacity : [tokens]
        KV capacity of the server, if known; it replaces the one in the log.
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
    batches = steps[busy]
    prompts = np.zeros(batches.size) if remote_prefill else np.diff(log.prompt_tokens)[busy]
    return BatchRows(
        time=((log.time[1:] + log.time[:-1]) / 2)[busy],
        steps=batches,
        prefill_tokens=prompts / batches,
        decode_tokens=running[busy] if log.iterations is None else generated[busy] / batches,
        kv_tokens=None if kv is None else ((kv[1:] + kv[:-1]) / 2)[busy],
        step_time=span[busy] / batches,
        kv_is_share=is_share,
    )


def held_tokens(log: MetricsLog) -> NDArray[np.float64] | None:
    """Return the tokens of unfinished requests at each scrape, shape (T,); None if not told.

    The count starts at a moment of the log without requests: tokens that came in less tokens that
    left. Every request that shares a prefix counts the tokens of the prefix.
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
