"""What an engine can tell of its state at a time that lies behind it, in words of every engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.compilation import compiled

REPORT = np.dtype(
    [(name, np.float64) for name in ("time", "batch_start", "batch_duration")]
    + [
        (name, np.int64)
        for name in (
            "batches", "arrived", "waiting", "running", "swapped", "memory", "left", "evicted",
            "arrived_prompts", "waiting_prompts", "pending_prompts", "oldest",
        )
    ]
)  # fmt: skip
"""The state of one engine at ``time``.

``batch_start`` and ``batch_duration`` are those of the batch that executes, not-a-number and 0
where none does. ``batches`` have ended, ``arrived`` requests have arrived, with
``arrived_prompts`` prompt tokens. ``waiting``, ``running`` and ``swapped`` count requests, ``left``
those that have gone, ``evicted`` evictions so far. ``memory`` is the KV of the running requests
[tokens]. ``waiting_prompts`` are prompt tokens of those who have not entered RUNNING yet, and
``pending_prompts`` of those who have no token yet. No request before ``oldest`` is one of these."""


def blank_reports(size: int) -> NDArray:
    """Return the :data:`REPORT` of so many engines that have told nothing yet, shape (size,)."""
    reports = np.zeros(size, REPORT)
    reports["batch_start"] = np.nan
    return reports


@compiled
def told_at(now, delay, period):
    """Return of when [time] the state is that is told now; see :class:`discrete.Reporting`."""
    time = now - delay
    return np.floor(time / period) * period if period > 0 else time


BATCH_REPORT = np.dtype(
    [("end", np.float64), ("duration", np.float64)]
    + [
        (name, np.int64)
        for name in ("prefill_tokens", "decoded", "waiting", "running", "memory", "evicted")
    ]
)
"""What an engine tells of a batch: ``decoded`` requests decoded a token (with or without those that
got their first, see :attr:`discrete.Reporting.counts_newcomers`), ``waiting``, ``running`` and
``memory`` [tokens] are right after it, ``evicted`` counts evictions up to it."""
