"""The least time that given work takes, whatever steps it is put into: a bound by the law alone.

A step of a server decodes for ``n`` requests, reads ``c`` tokens of their KV, computes ``p``
tokens of prompts, and takes the time of the batch-time law. Let each of these have a price, such
that no step that the server can take costs less time than its content is worth. Then no schedule
does some work in less time than the work is worth. The best such prices are those of a linear
program, whose other side is the fastest mixture of steps; both have the same value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.batch_time import BatchTimeLaw


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What no step of an instance exceeds.

    Parameters
    ----------
    requests : [requests]
        Requests that decode in a step.
    context : [tokens]
        KV of the requests of a step.
    computed : [tokens]
        Tokens that a step computes, those of decodes and of prompts together.
    beside : [tokens]
        KV that each decode takes beside what ``Work.context`` says of it.
    """

    requests: float
    context: float
    computed: float
    beside: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """What requests need, one entry each.

    Parameters
    ----------
    decodes : shape (J,) [steps]
        Steps in which a request decodes.
    context : shape (J,) [tokens]
        KV that it holds, summed over its steps.
    prefill : shape (J,) [tokens]
        Tokens of its prompt that are computed.
    known : shape (J,) [tokens]
        Tokens of its prompt that are there already.
    weight : shape (J,)
        How often there is such a request.
    """

    decodes: NDArray[np.float64]
    context: NDArray[np.float64]
    prefill: NDArray[np.float64]
    known: NDArray[np.float64]
    weight: NDArray[np.float64]


def least_times(law: BatchTimeLaw, work: Work, limits: StepLimits) -> NDArray[np.float64]:
    """Return the least time of an instance that each request is worth [time], shape (J,).

    Their sum, each times its weight, is what no schedule on any number of equal instances can take
    less time of instances for. It holds for these requests together: a part of them may take less.

    Parameters
    ----------
    law
        Batch-time law.
    work
        Of the requests.
    limits
        Of a step.

    Notes
    -----
    Within the pieces of its tables the law is linear, so that steps at the corners of the pieces
    are enough. What a prompt's tokens attend does not depend on its chunks. Of the KV that a
    chunk finds, what whole steps of chunks leave no way around is counted. Steps of fractions of a
    request are allowed, and what is computed twice is not counted: both only lower the bound.
    """
    parts = np.array([work.decodes, work.context, work.prefill])
    totals = parts @ work.weight
    contents, time = _steps(law, limits)
    prices = _best_prices(contents, time, totals)
    own = law.d_prefill_attention * _attended(work) + law.d_prefill_context * _found(work, limits)
    return prices @ parts + own


def _attended(work: Work) -> NDArray[np.float64]:
    """Pairs of a prompt token that is computed and a token that it attends."""
    whole = work.prefill + work.known
    return (whole * (whole + 1) - work.known * (work.known + 1)) / 2


def _found(work: Work, limits: StepLimits) -> NDArray[np.float64]:
    """Least sum over a prompt's chunks of what each finds in the KV, the shortest chunk first."""
    if limits.computed <= 0:
        return np.zeros(work.prefill.size)
    chunks = np.ceil(work.prefill / limits.computed)
    first = work.prefill - np.maximum(chunks - 1, 0) * limits.computed
    later = np.maximum(chunks - 1, 0)
    return first * later + limits.computed * later * np.maximum(later - 1, 0) / 2


def _steps(law: BatchTimeLaw, limits: StepLimits) -> tuple[NDArray, NDArray]:
    """Return decodes, KV and prompt tokens of steps at corners, shape (S, 3), and their time."""
    bends = [
        [row[0] for row in table or ()]
        for table in (law.d_decode_table, law.d_mixed_kv_table, law.d_prefill_table)
    ]
    requests = _within(bends[0], limits.requests)
    context = _within(bends[1], limits.context)
    computed = _within(bends[2], limits.computed)
    decode = _with_context([(n, 0.0) for n in requests], context, limits)
    time = [np.asarray(law.step_duration(decode[:, 0], decode[:, 1]), float)]
    pairs = {(n, 1.0) for n in requests if n + 1 <= limits.computed}
    pairs |= {(n, total - n) for n in requests for total in computed if total - n >= 1}
    pairs |= {(t - 1, 1.0) for t in computed if 1 <= t <= limits.requests + 1}
    mixed = _with_context(sorted(pairs), context, limits)
    time.append(np.asarray(law.mixed_duration(mixed[:, 0], mixed[:, 1], mixed[:, 2]), float))
    return np.concatenate([decode, mixed]), np.concatenate(time)


def _with_context(
    pairs: list[tuple[float, float]], context: list[float], limits: StepLimits
) -> NDArray[np.float64]:
    """Return steps of so many decodes and prompt tokens, each with every KV that fits beside."""
    steps = {
        (n, max(min(c, limits.context - limits.beside * n), 0.0), p)
        for n, p in pairs
        for c in context
    }
    return np.array(sorted(steps)).reshape(-1, 3)


def _within(bends: list[float], most: float) -> list[float]:
    """Return 0, the bends of a table below the most, and the most."""
    return sorted({0.0, *(float(x) for x in bends if 0 < x < most), float(most)})


def _best_prices(contents: NDArray, time: NDArray, totals: NDArray) -> NDArray[np.float64]:
    """Return the prices at which all work is worth most and no step is worth more than its time."""
    from scipy.optimize import linprog

    unit = float(time.max())
    if unit <= 0:
        return np.zeros(3)
    largest = np.maximum(contents.max(axis=0), 1.0)
    worth = totals / largest
    found = linprog(
        -worth / worth.max(),
        A_ub=contents / largest,
        b_ub=time / unit,
        bounds=[(0, None) if total > 0 else (0, 0) for total in totals],
        method="highs",
    )
    assert found.success, found.message
    prices = found.x / largest * unit
    asked = contents @ prices
    some = asked > 0
    return prices * min(1.0, float((time[some] / asked[some]).min(initial=1.0)))  # its tolerance
