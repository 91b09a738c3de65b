"""Parcels of fluid in order: queues that compiled code pushes to and pops from at both ends.

A parcel is a cohort that arrived uniformly over an interval and shares one age. Of its mass at
arrival, the share G(x), x = max(age, furthest), is alive; lengths are not drawn, they thin it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode.lagrangian.layout import (
    ALIVE,
    COLUMNS,
    FROM,
    HELD,
    MASS,
    PREFILL,
    SURVIVE,
    UNTIL,
    WORK,
)
from ode.lagrangian.memory import parcels_of
from serving import RequestMix
from serving.compilation import compiled
from serving.compiled_memory import matrix_at


def mix_tables(mix: RequestMix) -> NDArray[np.float64]:
    """Return what parcels need to know of a request mix, shape (D_max + 1, TABLE_COLUMNS).

    Row k holds G(k), P(k) = E[p; D > k] and the sum over l < k of P(l) + (l + 1) G(l), each
    followed by its forward difference: a row fits one cache line.
    """
    survive, held = mix.survival(), mix.prefill_survival()
    k = np.arange(survive.size)
    work = np.append(0.0, np.cumsum(held + (k + 1) * survive))[:-1]
    columns = [(values, np.append(np.diff(values), 0.0)) for values in (survive, held, work)]
    return np.column_stack([column for pair in columns for column in pair])


def mix_lanes(tables: NDArray[np.float64], batches: int) -> NDArray[np.float64]:
    """Return what a unit cohort contributes at each age of the grid, oldest first, shape (3, L).

    The newest cohort is at age (h - 1) / 2 when a step of h batches begins, the j-th before it
    h j further. Rows: requests alive and KV cache after the step, batch tokens during the step.
    """
    k = np.arange(tables.shape[0])
    begin = np.arange(0.5 * (batches - 1), k[-1], batches)
    end = begin + batches
    column = lambda c, x: np.interp(x, k, tables[:, c])  # noqa: E731
    alive = column(SURVIVE, end)
    memory = column(HELD, end) + end * alive
    cost = (column(WORK, end) - column(WORK, begin)) / batches
    return np.ascontiguousarray(np.stack([alive, memory, cost])[:, ::-1])


@compiled
def at(tables, column, x):
    """Return a column of a mix table at ``x`` >= 0, linear between, last value beyond."""
    k = int(x)
    if k >= tables.shape[0] - 1:
        return tables[tables.shape[0] - 1, column]
    return tables[k, column] + (x - k) * tables[k, column + 1]


@compiled
def size_of(queue):
    """Return how many parcels a queue holds, those that are gone but not removed included."""
    return queue.tail - queue.head


@compiled
def roomy_extent(extent, needed):
    """Return the places [parcels] of a queue of ``extent`` places once it offers ``needed``."""
    while extent < needed:
        # an odd number of cache lines: columns a power of two apart evict one another
        extent = 2 * extent + 8
    return extent


@compiled
def compact(w, queue, front, back):
    """Move a queue into the spare storage, without parcels that are gone; its own is spare then.

    At least ``front`` and ``back`` places are free at the ends afterwards. The caller has made sure
    that the spare storage is large enough, see :func:`ode.lagrangian.room.has_room`.
    """
    parcels = parcels_of(queue)
    alive = 0
    for i in range(queue.head, queue.tail):
        alive += parcels[ALIVE, i] > 0.0
    extent = roomy_extent(queue.extent, 2 * alive + 2 * (front + back))
    roomy = matrix_at(w.spare_at, COLUMNS, extent)
    position = front + (extent - alive - front - back) // 3
    first = position
    for i in range(queue.head, queue.tail):
        if parcels[ALIVE, i] > 0.0:
            for column in range(COLUMNS):
                roomy[column, position] = parcels[column, i]
            position += 1
    use_spare(w, queue, extent)
    queue.head, queue.tail = first, position


@compiled
def use_spare(w, queue, extent):
    """Let a queue use ``extent`` places of the spare storage, and its own be the spare one."""
    storage = queue.at
    queue.at = w.spare_at
    queue.extent = extent
    w.spare_at = storage


@compiled
def push_tail(queue, piece):
    """Append a parcel (COLUMNS,); there must be room."""
    parcels, i = parcels_of(queue), queue.tail
    for column in range(COLUMNS):
        parcels[column, i] = piece[column]
    queue.tail = i + 1


@compiled
def push_head(queue, piece):
    """Put a parcel (COLUMNS,) before the head; there must be room."""
    parcels, i = parcels_of(queue), queue.head - 1
    for column in range(COLUMNS):
        parcels[column, i] = piece[column]
    queue.head = i


@compiled
def take(queue, share, from_tail, piece):
    """Move a ``share`` of the parcel at one end into ``piece``; all of it leaves the queue.

    From the tail goes the younger part of the arrival interval, from the head the older one.
    """
    parcels = parcels_of(queue)
    i = queue.tail - 1 if from_tail else queue.head
    for column in range(COLUMNS):
        piece[column] = parcels[column, i]
    if share >= 1.0:
        if from_tail:
            queue.tail -= 1
        else:
            queue.head += 1
        return
    for column in (MASS, ALIVE, PREFILL):
        piece[column] *= share
        parcels[column, i] -= piece[column]
    width = parcels[UNTIL, i] - parcels[FROM, i]
    if from_tail:
        parcels[UNTIL, i] -= share * width
        piece[FROM] = parcels[UNTIL, i]
    else:
        parcels[FROM, i] += share * width
        piece[UNTIL] = parcels[FROM, i]


@compiled
def split(queue, i, share):
    """Split parcel ``i``; return the position of its older part, ``share`` of it.

    The younger part follows at the next position. There must be room at the tail.
    """
    parcels, head, tail = parcels_of(queue), queue.head, queue.tail
    older = i
    if head > 0 and i - head < tail - i:
        older = i - 1
        for column in range(COLUMNS):
            for k in range(head, i + 1):
                parcels[column, k - 1] = parcels[column, k]
        queue.head = head - 1
    else:
        for column in range(COLUMNS):
            for k in range(tail, i, -1):
                parcels[column, k] = parcels[column, k - 1]
        queue.tail = tail + 1
    for column in (MASS, ALIVE, PREFILL):
        part = share * parcels[column, older]
        parcels[column, older + 1] = parcels[column, older] - part
        parcels[column, older] = part
    middle = parcels[FROM, older] + share * (parcels[UNTIL, older] - parcels[FROM, older])
    parcels[UNTIL, older] = middle
    parcels[FROM, older + 1] = middle
    return older
