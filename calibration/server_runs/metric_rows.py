"""Two scrapes of a server's metrics tell the mean batch between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.metrics import MetricsLog
from serving import WorkloadError

FEWEST = 4
"""Smallest number of intervals that give batch times."""

ENOUGH = 24
"""Number of intervals without a preemption from which on the others are left out."""

PARTLY_IDLE = "intervals at whose begin or end nothing ran"
"""Why an interval with batches gives no batch time: part of it was idle."""

PREEMPTING = "intervals in which the server preempted"
"""Why an interval is left out where there are enough others."""


def rows_of_metrics(
    log: MetricsLog, *, kv_capacity: float | None = None, remote_prefill: bool = False
) -> BatchRows:
    """Return the batches between scrapes in which requests ran throughout.

    ``iterations`` counts the batches where the server tells them. Else the count is tokens over
    running requests, since every batch gives each running request a token (the mean inter-token
    latency would weigh batches by their requests). A prompt token that the prefix cache had takes
    no computation.

    KV is the tokens that came in less those that left: what the requests of a batch read, shared
    or not. Where the metrics do not tell them, or preempted requests keep their tokens while they
    wait, KV is the share in use times the capacity, less half a block per request, because blocks
    are used whole; else the share itself.

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
    worked = (generated > 0) & (steps > 0)
    throughout = np.minimum(log.running[1:], log.running[:-1]) > 0
    busy, calm = worked & throughout, worked & throughout & ~_preempted(log)
    dropped = {PARTLY_IDLE: int((worked & ~throughout).sum())}
    if calm.sum() >= ENOUGH:
        dropped[PREEMPTING] = int((busy & ~calm).sum())
        busy = calm
    if busy.sum() < FEWEST:
        raise WorkloadError(
            f"requests ran and tokens came in {busy.sum()} intervals; {FEWEST} are needed"
        )
    batches = steps[busy]
    prompts = np.zeros(batches.size) if remote_prefill else np.diff(_computed(log))[busy]
    kv, is_share = _kv(log, kv_capacity or log.kv_capacity)
    return BatchRows(
        time=((log.time[1:] + log.time[:-1]) / 2)[busy],
        steps=batches,
        prefill_tokens=prompts / batches,
        decode_tokens=running[busy] if log.iterations is None else generated[busy] / batches,
        kv_tokens=None if kv is None else ((kv[1:] + kv[:-1]) / 2)[busy],
        step_time=span[busy] / batches,
        kv_is_share=is_share,
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _preempted(log: MetricsLog) -> NDArray[np.bool_]:
    """Return whether each interval saw a preemption, shape (T - 1,)."""
    if log.preemptions is None:
        return np.zeros(len(log) - 1, dtype=bool)
    return np.diff(log.preemptions) > 0


def _computed(log: MetricsLog) -> NDArray[np.float64]:
    """Return the prompt tokens that the server computed since any origin, shape (T,)."""
    if log.computed_prompt_tokens is not None:
        return log.computed_prompt_tokens
    if log.cached_prompt_tokens is not None:
        found = log.prompt_tokens - log.cached_prompt_tokens
        return np.maximum.accumulate(found)  # hits and prompts are not counted at one moment
    return log.prompt_tokens


def _kv(log: MetricsLog, capacity: float | None) -> tuple[NDArray[np.float64] | None, bool]:
    """Return the KV that running requests read at each scrape, and whether it is a share."""
    held = held_tokens(log)
    preempts = log.preemptions is not None and np.ptp(log.preemptions) > 0
    if held is not None and not (preempts and log.kv_usage is not None and capacity):
        return held, False
    if log.kv_usage is None:
        return held, False
    if not capacity:
        return log.kv_usage, True
    part = 0.0 if log.block_size is None else (log.block_size - 1) / 2 * log.running
    return np.maximum(log.kv_usage * capacity - part, 0.0), False


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
    return np.maximum(held - held[np.argmax(idle)], 0.0)


def every_second(log: MetricsLog) -> MetricsLog:
    """Return the log that scrapes half as often would have given."""
    columns = {
        name: value[::2]
        for name in log.__dataclass_fields__
        if isinstance(value := getattr(log, name), np.ndarray)
    }
    return replace(log, **columns)
