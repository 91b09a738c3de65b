"""The first and the last token of every request tell the batches of a log.

A request that decodes D tokens sees D - 1 batches between the two, so the log tells the number of
these batches and their mean duration. Their mean content is an integral over batches of the
content of all requests, and the integral needs the time of every batch. The first fit takes
batches as equally long; each later fit takes the batch times that the fit before predicts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.law import Coefficients
from calibration.server_runs.requests import RequestLog
from serving import WorkloadError

MOST_POINTS = 2_000_000
"""Largest number of points of time that the integral over batches uses."""


def rows_of_phases(
    log: RequestLog,
    *,
    remote_prefill: bool,
    token_budget: float | None = None,
    law: Coefficients | None = None,
) -> BatchRows:
    """Return one row per request that decodes more than one token.

    Parameters
    ----------
    log, remote_prefill, token_budget
        As for :func:`rows_of_requests`.
    law
        Coefficients of an earlier fit; without them batches are equally long.
    """
    steps = log.output_tokens - 1
    decodes = (steps >= 1) & (log.finish > log.first_token)
    if not decodes.any():
        raise WorkloadError("no request decodes more than one token: there is no batch time in it")
    first, finish, m = log.first_token[decodes], log.finish[decodes], steps[decodes]
    prompt = log.prompt_tokens[decodes]
    shortest = float(np.min((finish - first) / m)) / 2
    t = _points(log, first, finish, shortest)
    batches = t.copy()  # equally long: any clock that runs evenly will do
    if law is not None:
        n, context = _held(t, t, first, finish, m, prompt)  # tokens equidistant: a start
        for _ in range(2):
            tau = np.maximum(law.d_0 + law.d_decode * n + law.d_kv * context, shortest)
            rate = 1 / tau
            if not remote_prefill:
                rate = _slowed(rate, t, tau, log, law.d_prefill, token_budget)
            batches = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(t))])
            n, context = _held(t, batches, first, finish, m, prompt)
    else:
        n, context = _held(t, batches, first, finish, m, prompt)
    width = np.diff(batches)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return means over the batches of each request; a value holds up to the next point."""
        total = np.concatenate([[0.0], np.cumsum(values[:-1] * width)])
        a, b = np.searchsorted(t, first), np.searchsorted(t, finish)
        return (total[b] - total[a]) / (batches[b] - batches[a])

    entered = _entered(log, first, finish)
    decode, kv = mean(n), mean(context)
    if remote_prefill:  # a first token is decoded like the others
        prefill = np.zeros(m.size)
        others = np.searchsorted(np.sort(log.first_token), [first, finish], side="right")
        decode, kv = decode + (others[1] - others[0]) / m, kv + entered / m
    else:
        prefill = entered / m
    rows = BatchRows(
        time=(first + finish) / 2,
        steps=m,
        prefill_tokens=prefill,
        decode_tokens=decode,
        kv_tokens=kv,
        step_time=(finish - first) / m,
        disjoint=False,
    )
    return rows.where(np.argsort(rows.time, kind="stable"))


def _points(
    log: RequestLog, first: NDArray[np.float64], finish: NDArray[np.float64], spacing: float
) -> NDArray[np.float64]:
    """Return the events of a run and points at most ``spacing`` apart while anything decodes.

    A run of many hours in which little happens then needs no more points than its batches.
    """
    begin = log.arrival.min()
    edges = np.unique(np.concatenate([[begin], log.first_token, first, finish]))
    decoding = np.searchsorted(np.sort(first), edges[:-1], side="right") > np.searchsorted(
        np.sort(finish), edges[:-1], side="right"
    )
    width = np.diff(edges)
    busy = float(width[decoding].sum())
    spacing = max(spacing, busy / MOST_POINTS)
    parts = np.where(decoding, np.ceil(width / spacing), 1.0).astype(np.int64)
    nth = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    inside = np.repeat(edges[:-1], parts) + nth * np.repeat(width / parts, parts)
    return np.unique(np.concatenate([inside, edges]))


def _held(
    t: NDArray[np.float64], batches: NDArray[np.float64], first: NDArray[np.float64],
    finish: NDArray[np.float64], m: NDArray[np.float64], prompt: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Return the decoding requests and the KV that they hold, from each point to the next.

    The tokens of a request grow linearly with the number of batches, so the tokens of all requests
    are linear in this number between two events.
    """
    a, b = np.searchsorted(t, first), np.searchsorted(t, finish)
    passed = batches[b] - batches[a]
    if not (passed > 0).all():  # beside a prompt of 1e15 tokens, others take no time
        raise WorkloadError(
            "no batch lies between the first and the last token of a request: the lengths or the "
            "times are not those of a server"
        )
    begun, slope = batches[a], m / passed

    def active(values: NDArray[np.float64]) -> NDArray[np.float64]:
        change = np.zeros(t.size)
        np.add.at(change, a, values)
        np.subtract.at(change, b, values)
        return np.cumsum(change)

    middle = batches + 0.5 * np.diff(batches, append=batches[-1])
    # The batch that makes token k + 1 holds prompt and k tokens: half a token more than on average
    # since the last batch's end.
    context = active(prompt - slope * begun + 0.5) + middle * active(slope)
    return np.rint(active(np.ones(m.size))), np.maximum(context, 0.0)


def _slowed(
    rate: NDArray[np.float64], t: NDArray[np.float64], tau: NDArray[np.float64], log: RequestLog,
    d_prefill: float, budget: float | None,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the batches per time; batches with prompts, which end in first tokens, last longer."""
    slowed, ends = rate.copy(), np.searchsorted(t, log.first_token)
    before = -1
    order = np.argsort(log.first_token, kind="stable")
    at, i = np.unique(ends[order], return_index=True)
    together = np.add.reduceat(log.prompt_tokens[order], i)
    for end, prompt in zip(at, together, strict=True):
        chunks = 1.0 if budget is None else np.ceil(prompt / budget)
        length = chunks * tau[max(end - 1, 0)] + d_prefill * prompt
        begin = max(int(np.searchsorted(t, t[end] - length)), before, 0)
        if begin < end:
            slowed[begin:end] = chunks / length
        before = end
    return slowed


def _entered(
    log: RequestLog, first: NDArray[np.float64], finish: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the prompt tokens of the requests whose first token came in each phase."""
    order = np.argsort(log.first_token, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(log.prompt_tokens[order])])
    lo, hi = np.searchsorted(log.first_token[order], [first, finish], side="right")
    return total[hi] - total[lo]
