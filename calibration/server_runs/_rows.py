"""From what a server told to batch times: mean content and duration of consecutive batches.

Batching is what makes this exact: while a request decodes, every batch gives it one token. So the
time between two of its tokens that are ``m`` apart is the duration of ``m`` batches, and what the
others received in between is what those batches held. A law that is linear in the content holds
for the means as it does for a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs._metrics import MetricsLog
from calibration.server_runs._requests import RequestLog
from serving import WorkloadError
from workload import TextTable

STEPS_PER_ROW = 8
"""Batches that one row of a request log with inter-token times averages."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """Means over consecutive batches, in order of time.

    Parameters
    ----------
    time : shape (N,) [s]
        Middle of the batches that a row averages.
    steps : shape (N,)
        How many those are.
    prefill_tokens, decode_tokens, kv_tokens : shape (N,) [tokens/batch]
        Prompt tokens computed, decoding requests, and KV that these held. ``kv_tokens`` is None
        where the server did not tell.
    step_time : shape (N,) [s]
        Mean duration of a batch.
    disjoint
        Whether no batch is in two rows.
    kv_is_share
        ``kv_tokens`` is the share of an unknown capacity, 0 to 1.
    """

    time: NDArray[np.float64]
    steps: NDArray[np.float64]
    prefill_tokens: NDArray[np.float64]
    decode_tokens: NDArray[np.float64]
    kv_tokens: NDArray[np.float64] | None
    step_time: NDArray[np.float64]
    disjoint: bool = True
    kv_is_share: bool = False

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.time.size

    def where(self, keep: NDArray) -> BatchRows:
        """Return the rows that a mask or an array of indices selects."""
        kv = None if self.kv_tokens is None else self.kv_tokens[keep]
        return BatchRows(
            self.time[keep], self.steps[keep], self.prefill_tokens[keep],
            self.decode_tokens[keep], kv, self.step_time[keep], self.disjoint, self.kv_is_share,
        )  # fmt: skip


def rows_of_requests(
    log: RequestLog,
    *,
    steps_per_row: int = STEPS_PER_ROW,
    token_budget: float | None = None,
    remote_prefill: bool = False,
) -> BatchRows:
    """Return the batches of a request log.

    Parameters
    ----------
    log
        With inter-token times the rows are ``steps_per_row`` batches each and tile the time in
        which anything decodes. Without, a row is the whole decode phase of a request, the tokens
        of the others taken as equidistant between their first and last.
    steps_per_row
        See above.
    token_budget : [tokens]
        ``max_num_batched_tokens`` of the server: prompts longer than it take several batches, up
        to the one that ends with their first token. Without it a prompt is computed in one.
    remote_prefill
        Prompts come with their KV (a decode node): their first token is decoded like the others.
    """
    if log.inter_token is None or max(each.size for each in log.inter_token) < steps_per_row:
        return _rows_of_phases(log, remote_prefill)
    return _rows_of_tokens(log, steps_per_row, token_budget, remote_prefill)


def _rows_of_tokens(
    log: RequestLog, m: int, budget: float | None, remote_prefill: bool
) -> BatchRows:
    assert log.inter_token is not None
    emitted = [
        first + np.concatenate([[0.0], np.cumsum(gaps)])
        for first, gaps in zip(log.first_token, log.inter_token, strict=True)
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
    gaps = np.concatenate(log.inter_token)
    shift = 0.5 * float(np.median(gaps[gaps > 0]))  # the outputs of a batch are not one instant
    begin, end = _batches(log.first_token, emitted, shift)
    lo, hi = (np.searchsorted(times, edge + shift) for edge in (begin, end))
    decode = (hi - lo).astype(float)
    prefill = np.zeros(begin.size)
    if not remote_prefill:
        room = np.inf if budget is None else np.maximum(budget - decode, 0.0)
        prefill = _prefill(log, begin, end, shift, np.broadcast_to(room, begin.shape).copy())
    group = _groups(begin, end, m)
    counts = np.bincount(group)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.bincount(group, values) / counts)[counts == m]

    return BatchRows(
        mean((begin + end) / 2), counts[counts == m].astype(float),
        mean(prefill), mean(decode), mean(context[hi] - context[lo]), mean(end - begin),
    )  # fmt: skip


def _batches(
    first: NDArray[np.float64], emitted: list[NDArray[np.float64]], shift: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return beginning and end of every batch, as the requests that are followed saw them.

    One request is followed while it decodes, then the one with the longest way to go.
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


def _groups(begin: NDArray[np.float64], end: NDArray[np.float64], m: int) -> NDArray[np.int64]:
    """Number the runs of ``m`` batches without a gap between them."""
    gap = np.concatenate([[False], begin[1:] - end[:-1] > 0.5 * (end - begin)[1:]])
    run = np.cumsum(gap)
    since = np.arange(begin.size) - np.searchsorted(run, run)
    return np.cumsum(since % m == 0) - 1


def _prefill(
    log: RequestLog,
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
    last = np.searchsorted(end, log.first_token - shift)
    for i in np.argsort(log.first_token, kind="stable"):
        b, left = int(last[i]), float(log.prompt_tokens[i])
        if b >= begin.size or begin[b] > log.first_token[i] + shift:
            continue  # nothing decoded meanwhile: no batch here is of it
        before = b - 1
        while before >= 0 and begin[before] >= log.arrival[i] and room[before] < left:
            tokens[before] += room[before]
            left -= room[before]
            room[before] = 0.0
            before -= 1
        tokens[b] += left
        room[b] = max(room[b] - left, 0.0)
    return tokens


def _rows_of_phases(log: RequestLog, remote_prefill: bool) -> BatchRows:
    steps = log.output_tokens - 1
    chosen = np.flatnonzero((steps >= 1) & (log.finish > log.first_token))
    if not chosen.size:
        raise WorkloadError("no request decodes more than one token: there is no batch time in it")
    length = np.maximum(log.finish - log.first_token, 1e-12)
    order = np.argsort(log.first_token, kind="stable")
    starts = log.first_token[order]
    prompts = np.concatenate([[0.0], np.cumsum(log.prompt_tokens[order])])
    out = np.empty((chosen.size, 3))
    for row, i in enumerate(chosen):
        a, b = log.first_token[i], log.finish[i]
        near = np.flatnonzero((log.first_token < b) & (log.finish > a) & (steps >= 1))
        at = log.first_token[near]
        k0, k1 = (np.clip((edge - at) / length[near], 0, 1) * steps[near] for edge in (a, b))
        count = k1 - k0
        held = count * (log.prompt_tokens[near] + 0.5) + (k1**2 - k0**2) / 2
        lo, hi = np.searchsorted(starts, [a, b], side="right")
        entered = prompts[hi] - prompts[lo]
        if remote_prefill:
            out[row] = 0.0, count.sum() + hi - lo, held.sum() + entered
        else:
            out[row] = entered, count.sum(), held.sum()
    m = steps[chosen]
    rows = BatchRows(
        (log.first_token[chosen] + log.finish[chosen]) / 2, m,
        out[:, 0] / m, out[:, 1] / m, out[:, 2] / m, length[chosen] / m, disjoint=False,
    )  # fmt: skip
    return rows.where(np.argsort(rows.time, kind="stable"))


def rows_of_metrics(
    log: MetricsLog, *, kv_capacity: float | None = None, remote_prefill: bool = False
) -> BatchRows:
    """Return the batches between scrapes in which requests ran throughout.

    The number of batches is that of ``iterations`` where the server tells; else the interval over
    the mean inter-token latency; else, as every batch gives each running request a token, tokens
    over running requests. KV in tokens is its share times the capacity, or what came in less what
    left, or where neither is told the share itself.

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
    steps = _steps(log, span, running, generated)
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


def _steps(
    log: MetricsLog,
    span: NDArray[np.float64],
    running: NDArray[np.float64],
    generated: NDArray[np.float64],
) -> NDArray[np.float64]:
    if log.iterations is not None:
        return np.diff(log.iterations)
    if log.itl_sum is not None and log.itl_count is not None:
        total, count = np.diff(log.itl_sum), np.diff(log.itl_count)
        return np.divide(span * count, total, out=np.zeros_like(span), where=total > 0)
    return np.divide(generated, running, out=np.zeros_like(span), where=running > 0)


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


def rows_of_table(table: TextTable) -> BatchRows:
    """Return the rows of a CSV of windows: ``prefill_tokens``, ``decode_tokens``, ``kv_tokens``,
    ``step_time_ms`` and a time ``t_s`` [s].
    """  # noqa: D205
    step = table.numbers("step_time_ms") / 1000.0
    wrong = step <= 0
    if wrong.any():
        at = int(np.argmax(wrong))
        raise WorkloadError("allowed: a number > 0", path=table.path, row=at + 1,
                            column="step_time_ms", value=float(step[at] * 1000))  # fmt: skip
    time = table.numbers("t_s")
    late = np.diff(time) <= 0
    if late.any():
        at = int(np.argmax(late)) + 1
        raise WorkloadError("time does not increase", path=table.path, row=at + 1, column="t_s",
                            value=float(time[at]))  # fmt: skip
    return BatchRows(
        time, np.ones(time.size), table.numbers("prefill_tokens"), table.numbers("decode_tokens"),
        table.numbers("kv_tokens"), step,
    )  # fmt: skip
