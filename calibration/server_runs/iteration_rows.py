"""Each iteration of a server's log is a batch; the clock of the log tells the time between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.iterations import IterationLog

FEWEST_WINDOWS = 3
"""Smallest number of stretches between two ticks of the clock that tell the gap."""

ENOUGH_WINDOWS = 8
"""Number of such stretches from which on the gap is a line in the requests of a batch."""

MANY_GAPS = 0.25
"""Share of the time outside of steps beyond which the elapsed times tell little."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two steps an engine schedules and hands out tokens for this long.

    Parameters
    ----------
    per_step, per_request : [s]
        The gap is ``per_step + per_request * n`` after a step that gives n requests a token.
    error_per_step, error_per_request : [s]
        Half widths of 95 % intervals.
    share
        Share of the time that lies between steps.
    """

    per_step: float
    per_request: float
    error_per_step: float
    error_per_request: float
    share: float

    def bounds(self) -> tuple[Gap, Gap]:
        """Return the gap with each of its two parts at the upper end of its interval."""
        return (
            replace(self, per_step=self.per_step + self.error_per_step),
            replace(self, per_request=self.per_request + self.error_per_request),
        )

    def of(self, requests: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gap [s] after steps that give so many requests a token."""
        return self.per_step + self.per_request * requests


def gap_between_steps(log: IterationLog) -> Gap | None:
    """Return the time between steps that the clock of the lines shows; None where it does not.

    A tick of the clock falls into a step. Between two ticks lie whole seconds, in which the steps
    between take what they say and the gaps the rest. Only stretches count in which somebody ran
    throughout: the KV in use after each step says so.
    """
    if log.stamp is None or log.usage is None or len(log) < 2:
        return None
    ticks = np.flatnonzero(np.diff(log.stamp) > 0) + 1
    middle = np.cumsum(log.elapsed) - log.elapsed / 2  # a tick is anywhere in its step
    requests = np.concatenate([[0.0], np.cumsum(log.decodes + log.contexts)])
    idle = np.concatenate([[0], np.cumsum(log.usage <= 0)])
    first, last = ticks[:-1], ticks[1:]
    busy = idle[last] == idle[np.maximum(first - 1, 0)]
    first, last = first[busy], last[busy]
    if first.size < FEWEST_WINDOWS:
        return None
    between = log.stamp[last] - log.stamp[first] - (middle[last] - middle[first])
    steps, given = (last - first).astype(float), requests[last] - requests[first]
    columns = np.stack([steps, given], axis=1)
    if first.size < ENOUGH_WINDOWS or np.ptp(given / steps) < 1:
        columns = columns[:, :1]
    found, _ = nnls(columns, between)
    left = between - columns @ found
    freedom = max(first.size - columns.shape[1], 1)
    inverse = np.linalg.pinv(columns.T @ columns)
    half = 1.96 * np.sqrt(np.diag(inverse) * (left @ left) / freedom)
    value, error = np.zeros(2), np.zeros(2)
    value[: found.size], error[: found.size] = found, half
    whole = float((log.stamp[last] - log.stamp[first]).sum())
    return Gap(*map(float, value), *map(float, error), share=float(between.sum() / whole))


def drafts(log: IterationLog) -> bool:
    """Return whether tokens beyond one per request are drafts, and not computed again.

    Requests compute again now and then; drafts are in most steps.
    """
    decoding = log.decodes > 0
    return bool(decoding.any() and np.mean((log.generation_tokens > log.decodes)[decoding]) > 0.5)


def rows_of_iterations(
    log: IterationLog, gap: Gap | None, *, kv_capacity: float | None, block_size: float | None
) -> BatchRows:
    """Return one row per iteration.

    What a preempted request computes again counts as prefill. The KV that decoding requests read is
    the KV in use before the step, less half a block for each of them, because blocks are used
    whole.

    Parameters
    ----------
    log
        The iterations.
    gap
        Time after each step that its elapsed time leaves out; None where it is not known.
    kv_capacity, block_size : [tokens]
        Of the server, if known. Without the first, KV is a share.
    """
    capacity = kv_capacity or log.kv_capacity
    again = np.zeros(len(log)) if drafts(log) else log.generation_tokens - log.decodes
    given = log.generation_tokens - again
    lasted = log.elapsed if gap is None else log.elapsed + gap.of(log.decodes + log.contexts)
    kv = None
    if log.usage is not None:
        kv = np.concatenate([[0.0], log.usage[:-1]])
        if capacity:
            part = 0.0 if block_size is None else (block_size - 1) / 2
            kv = np.maximum(kv * capacity - part * log.decodes, 0.0)
    end = np.cumsum(lasted) if log.stamp is None else _spread_over_clock(log.stamp, lasted)
    return BatchRows(
        time=end - lasted / 2,
        steps=np.ones(len(log)),
        prefill_tokens=log.context_tokens + again,
        decode_tokens=given,
        kv_tokens=kv,
        step_time=lasted,
        kv_is_share=kv is not None and not capacity,
        dropped=log.dropped,
    )


def _spread_over_clock(
    stamp: NDArray[np.float64], lasted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return rising times of steps near the whole seconds that their lines say."""
    end = np.cumsum(lasted)
    return end + np.maximum.accumulate(np.maximum(stamp - end, 0.0))
