"""Parcels of fluid in order: growing ring buffers that compiled code pushes to and pops from.

A parcel is a cohort that arrived uniformly over an interval and shares one age. Of its mass at
arrival, the share G(x), x = max(age, furthest), is alive; lengths are not drawn, they thin it.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving import RequestMix

MASS, AGE, FURTHEST, ALIVE, PREFILL, FIRST_TOKEN, FROM, UNTIL, ADMITTED = range(9)
"""Columns: mass at arrival; tokens decoded since the last start; tokens ever decoded; mass alive;
mass alive times its mean prefill; position of the first token on the iteration clock (mean over
the parcel, complete once furthest >= 1); interval of arrival; time of first admission (negative
before)."""
COLUMNS = 9
HEAD, TAIL = 0, 1


def empty_queue(capacity: int = 256) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the storage (capacity, COLUMNS) and the ends of an empty queue."""
    return np.zeros((capacity, COLUMNS)), np.zeros(2, np.int64)


SURVIVE, HELD, WORK, COUNT = 0, 2, 4, 6
"""Columns of a mix table; the column after each is its forward difference."""


def mix_tables(mix: RequestMix) -> NDArray[np.float64]:
    """Return what parcels need to know of a request mix, shape (D_max + 1, 8).

    Row k holds G(k), P(k) = E[p; D > k], and the sums over l < k of P(l) + (l + 1) G(l) and of
    G(l), each followed by its forward difference: one cache line a row.
    """
    survive, held = mix.survival(), mix.prefill_survival()
    k = np.arange(survive.size)
    work = np.append(0.0, np.cumsum(held + (k + 1) * survive))[:-1]
    count = np.append(0.0, np.cumsum(survive))[:-1]
    columns = [(values, np.append(np.diff(values), 0.0)) for values in (survive, held, work, count)]
    return np.column_stack([column for pair in columns for column in pair])


@njit(cache=True, inline="always")
def at(tables, column, x):
    """Return a column of a mix table at ``x`` >= 0, linear between, last value beyond."""
    k = int(x)
    if k >= tables.shape[0] - 1:
        return tables[tables.shape[0] - 1, column]
    return tables[k, column] + (x - k) * tables[k, column + 1]


@njit(cache=True)
def _grown(queue, ends):
    size = queue.shape[0]
    larger = np.zeros((2 * size, COLUMNS))
    for j in range(ends[HEAD], ends[TAIL]):
        larger[j & (2 * size - 1)] = queue[j & (size - 1)]
    return larger


@njit(cache=True)
def push_tail(queue, ends, parcel):
    """Append ``parcel`` (COLUMNS,); return the storage, a larger one if it was full."""
    if ends[TAIL] - ends[HEAD] == queue.shape[0]:
        queue = _grown(queue, ends)
    queue[ends[TAIL] & (queue.shape[0] - 1)] = parcel
    ends[TAIL] += 1
    return queue


@njit(cache=True)
def push_head(queue, ends, parcel):
    """Put ``parcel`` before the head; return the storage, a larger one if it was full."""
    if ends[TAIL] - ends[HEAD] == queue.shape[0]:
        queue = _grown(queue, ends)
    ends[HEAD] -= 1
    queue[ends[HEAD] & (queue.shape[0] - 1)] = parcel
    return queue


@njit(cache=True)
def cut(source, share, younger, piece):
    """Move a ``share`` of the parcel ``source`` into ``piece``, its younger or its older part."""
    piece[:] = source
    for column in (MASS, ALIVE, PREFILL):
        piece[column] = source[column] * share
        source[column] -= piece[column]
    width = source[UNTIL] - source[FROM]
    if younger:
        source[UNTIL] -= share * width
        piece[FROM] = source[UNTIL]
    else:
        source[FROM] += share * width
        piece[UNTIL] = source[FROM]
