"""Parcels of fluid in order: queues that compiled code pushes to and pops from at both ends.

A parcel is a cohort that arrived uniformly over an interval and shares one age. Of its mass at
arrival, the share G(x), x = max(age, furthest), is alive; lengths are not drawn, they thin it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix
from serving.compilation import compiled

MASS, AGE, FURTHEST, ALIVE, PREFILL, FIRST_TOKEN, FROM, UNTIL, ADMITTED, LAST_TOKEN = range(10)
"""Columns: mass at arrival; tokens decoded since the last start; tokens ever decoded; mass alive;
mass alive times its mean prefill; position of the first token on the iteration clock (mean over
the parcel, complete once furthest >= 1); interval of arrival; time of first admission (negative
before); position of the latest token on the iteration clock (kept while latencies
are recorded). A queue stores them column by column, so that a step over many vectorises."""
COLUMNS = 10
HEAD, TAIL = 0, 1


def empty_queue(capacity: int = 504) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the storage (COLUMNS, capacity) and the ends of an empty queue."""
    return np.zeros((COLUMNS, capacity)), np.full(2, capacity // 4)


SURVIVE, HELD, WORK = 0, 2, 4
"""Columns of a mix table; the column after each is its forward difference."""


def mix_tables(mix: RequestMix) -> NDArray[np.float64]:
    """Return what parcels need to know of a request mix, shape (D_max + 1, 6).

    Row k holds G(k), P(k) = E[p; D > k] and the sum over l < k of P(l) + (l + 1) G(l), each
    followed by its forward difference: a row fits one cache line.
    """
    survive, held = mix.survival(), mix.prefill_survival()
    k = np.arange(survive.size)
    work = np.append(0.0, np.cumsum(held + (k + 1) * survive))[:-1]
    columns = [(values, np.append(np.diff(values), 0.0)) for values in (survive, held, work)]
    return np.column_stack([column for pair in columns for column in pair])


@compiled
def at(tables, column, x):
    """Return a column of a mix table at ``x`` >= 0, linear between, last value beyond."""
    k = int(x)
    if k >= tables.shape[0] - 1:
        return tables[tables.shape[0] - 1, column]
    return tables[k, column] + (x - k) * tables[k, column + 1]


@compiled
def with_room(queue, ends, front, back):
    """Return new storage with ``front`` and ``back`` free places, without parcels that are gone."""
    alive = 0
    for i in range(ends[HEAD], ends[TAIL]):
        alive += queue[ALIVE, i] > 0.0
    capacity = queue.shape[1]
    while capacity < 2 * alive + 2 * (front + back):
        # an odd number of cache lines: columns a power of two apart evict one another
        capacity = 2 * capacity + 8
    roomy = np.zeros((COLUMNS, capacity))
    position = front + (capacity - alive - front - back) // 3
    first = position
    for i in range(ends[HEAD], ends[TAIL]):
        if queue[ALIVE, i] > 0.0:
            for column in range(COLUMNS):
                roomy[column, position] = queue[column, i]
            position += 1
    ends[HEAD], ends[TAIL] = first, position
    return roomy


@compiled
def push_tail(queue, ends, parcel):
    """Append ``parcel`` (COLUMNS,); there must be room."""
    for column in range(COLUMNS):
        queue[column, ends[TAIL]] = parcel[column]
    ends[TAIL] += 1


@compiled
def push_head(queue, ends, parcel):
    """Put ``parcel`` before the head; there must be room."""
    ends[HEAD] -= 1
    for column in range(COLUMNS):
        queue[column, ends[HEAD]] = parcel[column]


@compiled
def take(queue, ends, share, from_tail, piece):
    """Move a ``share`` of the parcel at one end into ``piece``; all of it leaves the queue.

    From the tail goes the younger part of the arrival interval, from the head the older one.
    """
    i = ends[TAIL] - 1 if from_tail else ends[HEAD]
    for column in range(COLUMNS):
        piece[column] = queue[column, i]
    if share >= 1.0:
        if from_tail:
            ends[TAIL] -= 1
        else:
            ends[HEAD] += 1
        return
    for column in (MASS, ALIVE, PREFILL):
        piece[column] *= share
        queue[column, i] -= piece[column]
    width = queue[UNTIL, i] - queue[FROM, i]
    if from_tail:
        queue[UNTIL, i] -= share * width
        piece[FROM] = queue[UNTIL, i]
    else:
        queue[FROM, i] += share * width
        piece[UNTIL] = queue[FROM, i]


@compiled
def split(queue, ends, i, share):
    """Split parcel ``i``; return the position of its older part, ``share`` of it.

    The younger part follows at the next position. There must be room at the tail.
    """
    head, tail = ends[HEAD], ends[TAIL]
    older = i
    if head > 0 and i - head < tail - i:
        older = i - 1
        for column in range(COLUMNS):
            for k in range(head, i + 1):
                queue[column, k - 1] = queue[column, k]
        ends[HEAD] = head - 1
    else:
        for column in range(COLUMNS):
            for k in range(tail, i, -1):
                queue[column, k] = queue[column, k - 1]
        ends[TAIL] = tail + 1
    for column in (MASS, ALIVE, PREFILL):
        part = share * queue[column, older]
        queue[column, older + 1] = queue[column, older] - part
        queue[column, older] = part
    middle = queue[FROM, older] + share * (queue[UNTIL, older] - queue[FROM, older])
    queue[UNTIL, older] = middle
    queue[FROM, older + 1] = middle
    return older
