"""Where each priority stands in the waiting queue, so that nobody goes along it to find a place.

Priorities of a table are numbered from the first to be served: these are levels. For each level
the queue's last request of it is noted. A tree counts who waits: its leaves are the levels, and
each node has the count of the two below it, so that the nearest level before another is found in a
few steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.layout import NOBODY
from discrete.vllm.memory import number_at
from serving.compilation import compiled


@compiled
def last_of(s, level):
    """Return the slot of the last request of a level."""
    return number_at(s.level_last_at, level)


@compiled
def count_waiting(s, level, change):
    """Note that so many requests more of a level wait."""
    node = s.leaves + level
    while node > 0:
        number_at(s.level_tree_at, node).value += change
        node //= 2


@compiled
def last_before(s, level):
    """Return the last request of the nearest level before another that has any."""
    node = s.leaves + level
    while node > 1:
        if node % 2 == 1 and number_at(s.level_tree_at, node - 1).value > 0:
            node -= 1
            while node < s.leaves:
                node *= 2
                if number_at(s.level_tree_at, node + 1).value > 0:
                    node += 1
            return last_of(s, node - s.leaves).value
        node //= 2
    return NOBODY


def numbered(priority: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return the level of each request, and a power of two that is no less than their number."""
    known, level = np.unique(priority, return_inverse=True)
    return level, 1 << max(known.size - 1, 0).bit_length()


def standing(
    records: NDArray, head: int, leaves: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the last request of each level and the tree of a queue that begins with ``head``.

    Without ``leaves`` there are no levels: the queue is in the order of arrival.
    """
    last, tree = np.full(leaves, NOBODY), np.zeros(2 * leaves, np.int64)
    r = head if leaves else NOBODY
    while r != NOBODY:
        level = records["level"][r]
        last[level] = r
        tree[leaves + level] += 1
        r = records["next"][r]
    for node in range(leaves - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]
    return last, tree
