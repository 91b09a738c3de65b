"""Inter-token latencies, from the spans in which requests executed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def inter_token_latencies(
    spans: NDArray, start: NDArray[np.float64], duration: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the times between successive new tokens of each request, and how often each occurs.

    A token that a sacrificed request produces anew is not new: it counts neither as a token nor as
    an end of a latency. Within a span the latency is the duration of a batch, which all of its
    members share; between spans it is the time from the last new token to the next.

    Parameters
    ----------
    spans
        Rows of ``SPAN``, each request's in order.
    start, duration : shape (N,) [time]
        Of every batch.

    Returns
    -------
    latency, weight : shape (I,) [time; tokens]
    """
    request, first_new, last = fresh_spans(spans)
    members = np.zeros(start.size + 1, np.int64)
    np.add.at(members, first_new + 1, 1)
    np.add.at(members, last + 1, -1)
    weight = np.cumsum(members)[:-1]
    within = weight > 0

    end = start + duration
    resumed = np.flatnonzero(request[1:] == request[:-1]) + 1
    gaps = end[first_new[resumed]] - end[last[resumed - 1]]
    latency = np.concatenate([duration[within], gaps])
    return latency, np.concatenate([weight[within].astype(float), np.ones(gaps.size)])


def fresh_spans(
    spans: NDArray,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the batches that gave a request new tokens: each request's in order.

    Parameters
    ----------
    spans
        Rows of ``SPAN``, each request's in order.

    Returns
    -------
    request, first_new, last : shape (S,)
        A request, and the first and the last of consecutive batches that gave it a new token.
    """
    spans = spans[np.argsort(spans["request"], kind="stable")]
    request, first, last = spans["request"], spans["first_batch"], spans["last_batch"]
    reached = spans["first_token"] + last - first + 1
    known = _highest_before(request, reached)
    first_new = first + np.maximum(known - spans["first_token"], 0)
    fresh = first_new <= last
    return request[fresh], first_new[fresh], last[fresh]


def _highest_before(request: NDArray[np.int64], reached: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each span, the most tokens its request had reached in the spans before it."""
    if reached.size == 0:
        return reached
    group = np.cumsum(np.append(0, np.diff(request) != 0))
    base = group * (int(reached.max()) + 1)
    highest = np.maximum.accumulate(base + reached) - base
    before = np.append(0, highest[:-1])
    before[np.append(True, np.diff(group) != 0)] = 0
    return before
