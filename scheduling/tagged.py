"""One more request in a forecast: when it gets its first token, and when its last.

A forecast is the steps of a march and how far each reaches in the order of arrival. The request
has a number in this order, takes part in the steps that reach it, and decodes one token in each
batch of such a step. How long its answer is nobody knows; the chance that it is still there thins
what is left of its stay.
"""

from __future__ import annotations

import numpy as np

from serving.compilation import compiled

NAN = np.nan


@compiled
def first_step(start, steps, at):
    """Return the first step that begins at or after a time, by bisection."""
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        if start[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def first_token(start, duration, reach, steps, batches, at, number):
    """Return the time to first token of a request, and the step that brings it.

    Parameters
    ----------
    start, duration : shape (K,) [time]
        Of each step.
    reach : shape (K,) [requests]
        Largest number in the order of arrival that takes part.
    steps
        Steps made.
    batches
        Batches of a step.
    at : [time]
        When the request arrives.
    number : [requests]
        Its number in the order of arrival.

    Returns
    -------
    ttft : [time]
        Where the forecast ends before, the pace at which its reach grew is carried on.
    step
        ``steps`` where the forecast ends before.
    """
    k = first_step(start, steps, at)
    while k < steps:
        if reach[k] >= number:
            return start[k] + duration[k] / batches - at, k
        k += 1
    return _beyond(start, duration, reach, steps, number) - at, steps


@compiled
def _beyond(start, duration, reach, steps, number):
    """Return when a reach beyond the end of a forecast is expected, at the pace of its half."""
    last = steps - 1
    end = start[last] + duration[last]
    half = last // 2
    gained = reach[last] - reach[half]
    if not gained > 0.0:
        return np.inf
    if reach[last] == np.inf:
        return end
    return end + (number - reach[last]) * (end - start[half]) / gained


@compiled
def stay(
    start, duration, reach, steps, batches, at, number, survive, rest, again, marks, own, grown,
    out,
):  # fmt: skip
    """Follow a request to its last token.

    Parameters
    ----------
    start, duration, reach, steps, batches, at, number
        See :func:`first_token`.
    survive : shape (L + 1,)
        Chance that the answer has more than so many tokens; 0 at the last.
    rest : shape (L + 1,) [tokens]
        Tokens expected beyond so many: the sum of ``survive`` from there.
    again
        Whether a request that is stopped begins anew.
    marks : shape (Q,) [tokens]
        Lengths, ascending, at which the time is wanted: quantiles of the length.
    own, grown : [time]
        What the request itself adds to a batch, and how much more with each token.
    out : shape (2 + Q,) [time]
        Filled: TTFT, expected E2EL, and E2EL where the answer has each of the ``marks``.
    """
    ttft, k = first_token(start, duration, reach, steps, batches, at, number)
    out[0] = ttft + own
    longest = survive.size - 1
    decoded, furthest, mark = 0.0, 0.0, 0
    waited = 0.0
    if k < steps:
        expected = start[k] - at
        waited = expected
    else:
        expected = ttft
        waited = ttft
    while k < steps:
        alive = survive[min(int(furthest), longest)]
        if alive < 1e-4 and mark == marks.size:
            break
        gap = 0.0 if k + 1 >= steps else max(0.0, start[k + 1] - start[k] - duration[k])
        if reach[k] >= number:
            each = duration[k] / batches + own + grown * decoded
            j = 0
            while j < batches:
                new = decoded + 1.0
                expected += survive[min(int(max(decoded, furthest)), longest)] * each
                waited += each
                decoded = new
                furthest = max(furthest, decoded)
                while mark < marks.size and furthest >= marks[mark]:
                    out[2 + mark] = waited
                    mark += 1
                j += 1
        else:
            if again and decoded > 0.0:
                decoded = 0.0
            expected += alive * duration[k]
            waited += duration[k]
        expected += survive[min(int(furthest), longest)] * gap
        waited += gap
        k += 1
    pace = duration[steps - 1] / batches + own + grown * decoded
    left = rest[min(int(furthest), longest)]
    lost = furthest - decoded
    if left > 0.0:
        expected += pace * (left + lost * survive[min(int(furthest), longest)])
    while mark < marks.size:
        out[2 + mark] = waited + pace * (marks[mark] - decoded)
        mark += 1
    out[1] = expected
