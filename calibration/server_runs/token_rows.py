"""The time of every token tells the batches of a log.

While a request decodes, every batch gives it one token. So the time between two of its tokens is
the duration of a batch, and what the others received meanwhile is what that batch held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.chunks import others_inside, pauses
from calibration.server_runs.requests import RequestLog

STEPS_PER_ROW = 8
"""Number of batches that one row averages."""


def rows_of_tokens(
    log: RequestLog,
    inter_token: tuple[NDArray[np.float64], ...],
    *,
    steps_per_row: int,
    token_budget: float | None,
    remote_prefill: bool,
    computed: Computed | None = None,
) -> BatchRows:
    """Return rows of ``steps_per_row`` batches each; see :func:`rows_of_requests`.

    ``computed`` says which tokens a prefix cache left to compute; without it, all.
    """
    emitted = [
        first + np.concatenate([[0.0], np.cumsum(gaps)])
        for first, gaps in zip(log.first_token, inter_token, strict=True)
    ]
    sizes = np.array([each.size for each in emitted])
    per_chunk = (log.output_tokens - 1) / np.maximum(sizes - 1, 1)  # 1 unless tokens are bundled
    nth = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times = np.concatenate(emitted)
    context = np.repeat(log.prompt_tokens, sizes) + nth * np.repeat(per_chunk, sizes)
    if not remote_prefill:  # a first token is the work of its prefill
        times, context = times[nth > 0], context[nth > 0]
    order = np.argsort(times, kind="stable")
    times, context = times[order], np.concatenate([[0.0], np.cumsum(context[order])])
    gaps = np.concatenate(inter_token)
    shift = 0.5 * float(np.median(gaps[gaps > 0]))  # the outputs of a batch are not one instant
    begin, end = _batches(log.first_token, emitted, shift)
    several = others_inside(np.sort(np.concatenate(emitted)), begin, end, shift)
    begin, end = begin[~several], end[~several]  # its marker paused: no batch, but several
    lo, hi = (np.searchsorted(times, edge + shift) for edge in (begin, end))
    decode = (hi - lo).astype(float)
    prefill = np.zeros(begin.size)
    if not remote_prefill:
        room = np.inf if token_budget is None else np.maximum(token_budget - decode, 0.0)
        work = _work(log, computed)
        prefill = _prefill(work, begin, end, shift, np.broadcast_to(room, begin.shape).copy())
    group = _groups(begin, end, steps_per_row)
    counts = np.bincount(group)
    full = counts == steps_per_row

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the means over the groups that are full."""
        return (np.bincount(group, values) / counts)[full]

    return BatchRows(
        time=mean((begin + end) / 2),
        steps=counts[full].astype(float),
        prefill_tokens=mean(prefill),
        decode_tokens=mean(decode),
        kv_tokens=mean(context[hi] - context[lo]),
        step_time=mean(end - begin),
    )


def _batches(
    first: NDArray[np.float64], emitted: list[NDArray[np.float64]], shift: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return begin and end of every batch [s].

    The tokens of one request mark the batches while the request decodes; when it finishes, the
    running request that finishes last marks the batches after it.
    """
    begin: list[NDArray[np.float64]] = []
    end: list[NDArray[np.float64]] = []
    waiting, at, now = np.argsort(first, kind="stable"), 0, -np.inf
    active: list[int] = []
    while at < waiting.size or active:
        if not active:
            now = max(now, float(first[waiting[at]]))
        while at < waiting.size and first[waiting[at]] <= now + shift:
            active.append(int(waiting[at]))
            at += 1
        active = [i for i in active if emitted[i][-1] > now + shift]
        if not active:
            continue
        follow = max(active, key=lambda i: emitted[i][-1])
        own = emitted[follow]
        own = own[np.searchsorted(own, now - shift) :]
        begin.append(own[:-1])
        end.append(own[1:])
        now = float(own[-1])
    starts, ends = np.concatenate(begin), np.concatenate(end)
    real = ends > starts  # outputs that were bundled arrive at once
    return starts[real], ends[real]


def _groups(
    begin: NDArray[np.float64], end: NDArray[np.float64], steps_per_row: int
) -> NDArray[np.int64]:
    """Return the number of the group of ``steps_per_row`` gapless batches that each batch is in."""
    gap = np.concatenate([[False], begin[1:] - end[:-1] > 0.5 * (end - begin)[1:]])
    run = np.cumsum(gap)
    since = np.arange(begin.size) - np.searchsorted(run, run)
    return np.cumsum(since % steps_per_row == 0) - 1


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Tokens that a server computed, and when: since which time, and up to the batch of which."""

    since: NDArray[np.float64]
    until: NDArray[np.float64]
    tokens: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A prefix cache left these tokens to compute.

    Parameters
    ----------
    prompt : shape (R,) [tokens]
        Of each prompt.
    again
        Share of what a preempted request held.
    """

    prompt: NDArray[np.float64]
    again: float


def _work(log: RequestLog, computed: Computed | None) -> _Work:
    """Return the prompts of a log, and what was computed again after a pause."""
    paused = pauses(log)
    prompt, again = (
        (log.prompt_tokens, 1.0) if computed is None else (computed.prompt, computed.again)
    )
    return _Work(
        np.concatenate([log.arrival, paused.begin]),
        np.concatenate([log.first_token, paused.end]),
        np.concatenate([prompt, again * paused.context]),
    )


def _prefill(
    work: _Work,
    begin: NDArray[np.float64],
    end: NDArray[np.float64],
    shift: float,
    room: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the prompt tokens that each batch computed.

    A prompt ends in the batch of its first token. Where it is longer than what the budget left
    there, it took what was left in the batches before, back to its arrival (the order in which
    prompts are computed is that of their first tokens).
    """
    tokens = np.zeros(begin.size)
    last = np.searchsorted(end, work.until - shift)
    for i in np.argsort(work.until, kind="stable"):
        b, left = int(last[i]), float(work.tokens[i])
        if b >= begin.size or begin[b] > work.until[i] + shift:
            continue  # nothing decoded meanwhile: no batch here is of it
        before = b - 1
        while before >= 0 and begin[before] >= work.since[i] and room[before] < left:
            tokens[before] += room[before]
            left -= room[before]
            room[before] = 0.0
            before -= 1
        tokens[b] += left
        room[b] = max(room[b] - left, 0.0)
    return tokens
