"""One more request in a forecast: when it gets its first token, and when its last.

A forecast is the steps of a march and how far each reaches in the order of arrival. The request
has a number in this order, takes part in the steps that reach it, and decodes one token in each
batch of such a step. How long its answer is nobody knows; the chance that it is still there thins
what is left of its stay.
"""

from __future__ import annotations

import numpy as np

from ode import DECIDED, DURATION, REACH, START
from serving.compilation import compiled


@compiled
def first_step(decided, steps, at):
    """Return the first step that is decided at or after a time, by bisection."""
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        if decided[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def first_token(curve, steps, batches, at, number):
    """Return when a request gets its first token, and the step that brings it.

    Parameters
    ----------
    curve : shape (4, K)
        A forecast, see :mod:`ode._forecast`.
    steps, batches
        Steps of the forecast, and batches of each.
    at : [time]
        When the request arrives, in the time of the forecast.
    number : [requests]
        Its number in the order of arrival.

    Returns
    -------
    time : [time]
        In the time of the forecast. Where that ends before, its pace is carried on.
    step
        ``steps`` where the forecast ends before.
    """
    for k in range(first_step(curve[DECIDED], steps, at), steps):
        if curve[REACH, k] >= number:
            return curve[START, k] + curve[DURATION, k] / batches, k
    return max(at, _beyond(curve, steps, number)), steps


@compiled
def _beyond(curve, steps, number):
    """Return when a reach beyond the end of a forecast is expected, at the pace of its half.

    Where the half gained nothing, all of it tells the pace; where that gained nothing either, the
    forecast cannot say when: infinity, as for a prompt that no batch has room for.
    """
    last = steps - 1
    if last < 0:
        return 0.0
    since, reach = last // 2, curve[REACH]
    end = curve[START, last] + curve[DURATION, last]
    if reach[last] == np.inf:
        return end
    if not reach[last] > reach[since]:
        since = 0
    gained = reach[last] - reach[since]
    if not gained > 0.0:
        return np.inf
    return end + max(0.0, number - reach[last]) * (end - curve[START, since]) / gained


@compiled
def stay(curve, steps, batches, again, at, number, survive, rest, marks, own, grown, out):
    """Follow a request to its last token.

    Parameters
    ----------
    curve, steps, batches, at, number
        See :func:`first_token`.
    again
        Whether a request that is stopped begins anew.
    survive : shape (L + 1,)
        Chance that the answer has more than so many tokens; 0 at the last.
    rest : shape (L + 1,) [tokens]
        Tokens expected beyond so many: the sum of ``survive`` from there.
    marks : shape (Q,) [tokens]
        Lengths, ascending, at which the time is wanted: quantiles of the length.
    own, grown : [time]
        What the request itself adds to a batch, and how much more with each token.
    out : shape (2 + Q,) [time]
        Filled: time of the first token, expected time of the last, and its time where the answer
        has each of the ``marks``; all in the time of the forecast.
    """
    first, k = first_token(curve, steps, batches, at, number)
    longest, size = survive.size - 1, marks.size
    out[0] = first + own
    expected = waited = curve[START, k] if k < steps else first
    decoded, furthest, mark, alive = 0.0, 0.0, 0, 1.0
    while k < steps and (alive > 1e-4 or mark < size):
        if curve[REACH, k] >= number:
            each = curve[DURATION, k] / batches + own
            for _ in range(batches):
                taken = each + grown * decoded
                expected += alive * taken
                waited += taken
                decoded += 1.0
                if decoded > furthest:
                    furthest = decoded
                    alive = survive[min(int(furthest), longest)]
                    while mark < size and furthest >= marks[mark]:
                        out[2 + mark] = waited
                        mark += 1
        else:
            if again:
                decoded = 0.0
            expected += alive * curve[DURATION, k]
            waited += curve[DURATION, k]
        if k + 1 < steps:  # an instance that has nothing to do waits
            gap = max(0.0, curve[START, k + 1] - curve[START, k] - curve[DURATION, k])
            expected += alive * gap
            waited += gap
        k += 1
    pace = own + (curve[DURATION, steps - 1] / batches if steps > 0 else 0.0)
    left = rest[min(int(furthest), longest)]
    out[1] = (
        expected
        + pace * (left + alive * (furthest - decoded))
        + grown * left * (decoded + 0.5 * left / max(alive, 1e-12))
    )
    while mark < size:
        more = marks[mark] - decoded
        out[2 + mark] = waited + more * (pace + grown * (decoded + 0.5 * more))
        mark += 1
