"""When the outputs of requests came, as a client that streams them sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from discrete._latency import fresh_spans


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Chunks of output of every request, one request after the other.

    A chunk is what a server sends at once: one token, or several where drafts of a speculation
    were accepted. A token that is computed anew after a preemption is not sent again.

    Parameters
    ----------
    count : shape (R,)
        Chunks of each request of the table so far.
    time : shape (C,) [time]
        When each chunk came, each request's in order.
    tokens : shape (R,) [tokens]
        How many tokens each request got so far: more than chunks, where some came together.
    """

    count: NDArray[np.int64]
    time: NDArray[np.float64]
    tokens: NDArray[np.int64]


@runtime_checkable
class TellsOutputs(Protocol):
    """A log that knows when each chunk came; results as a client writes them need it."""

    def outputs(self) -> Outputs:
        """Return the chunks of every request of the table, in table order."""
        ...


def outputs_of_spans(spans: NDArray, end: NDArray[np.float64], requests: int) -> Outputs:
    """Return the outputs of an engine that gives each executed request one token per batch.

    Parameters
    ----------
    spans
        Rows of ``SPAN``, each request's in order.
    end : shape (N,) [time]
        Of every batch.
    requests
        Number of requests of the table.
    """
    request, first, last = fresh_spans(spans)
    count, time = chunks(request, first, last, end, requests)
    return Outputs(count, time, count)


def chunks(
    request: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    end: NDArray[np.float64],
    requests: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the chunks of each request, and when they came.

    Parameters
    ----------
    request, first, last : shape (S,)
        A request, and the first and the last of consecutive batches each of which gave it a chunk;
        in order of the request, each request's in order.
    end : shape (N,) [time]
        Of every batch.
    requests
        Number of requests of the table.

    Returns
    -------
    count, time : shape (R,), shape (C,) [time]
    """
    batches = last - first + 1
    count = np.zeros(requests, np.int64)
    np.add.at(count, request, batches)
    before = np.cumsum(batches) - batches
    batch = np.repeat(first - before, batches) + np.arange(int(batches.sum()))
    return count, end[batch]
