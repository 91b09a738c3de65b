"""The pattern of who runs on an instance: groups of requests that began together, in their order.

No block and no request of its own is kept but the group that it belongs to, so that a batch costs
the same with ten requests and with ten thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.compilation import compiled

COUNT, AGE, FURTHEST = range(3)
"""Columns of a group: requests alive, tokens since the latest start, tokens ever; as in
:class:`ode.InitialState`."""

GROUPS = 1024
"""Groups at most; beyond, neighbours become one."""

PARTS = 8
"""Groups that the requests of one batch make at most: a token budget may end between them."""


@compiled
def _age(groups, size, executed):
    """Give a token to the first ``executed`` requests; return the groups, one may be split."""
    left = float(executed)
    for i in range(size):
        count = groups[i, COUNT]
        if left <= 1e-9:
            break
        share = 1.0 if count <= left else left / count
        # a group that executes in part is older in part: its mean age is what a histogram knows
        groups[i, AGE] += share
        groups[i, FURTHEST] = max(groups[i, FURTHEST], groups[i, AGE])
        left -= count


@compiled
def binned(groups, size, rows):
    """Write groups into at most ``len(rows)`` rows, neighbours together; return how many."""
    most = rows.shape[0]
    alive = 0
    for i in range(size):
        if groups[i, COUNT] > 0.0:
            alive += 1
    if alive == 0:
        return 0
    each = (alive + most - 1) // most
    written, inside = 0, 0
    for i in range(size):
        count = groups[i, COUNT]
        if count <= 0.0:
            continue
        if inside == 0:
            rows[written, COUNT] = 0.0
            rows[written, AGE] = 0.0
            rows[written, FURTHEST] = 0.0
        rows[written, COUNT] += count
        rows[written, AGE] += count * groups[i, AGE]
        rows[written, FURTHEST] += count * groups[i, FURTHEST]
        inside += 1
        if inside == each:
            written, inside = written + 1, 0
    if inside > 0:
        written += 1
    for j in range(written):
        rows[j, AGE] /= rows[j, COUNT]
        rows[j, FURTHEST] = max(rows[j, AGE], rows[j, FURTHEST] / rows[j, COUNT])
    return written


class RunningSet:
    """Groups of running requests, the oldest first, and who belongs to which."""

    __slots__ = ("_base", "_front", "_group_of", "_size", "groups", "total")

    def __init__(self) -> None:
        self.groups: NDArray[np.float64] = np.zeros((GROUPS, 3))
        self._size, self._base, self._front, self.total = 0, 0, 0, 0.0
        self._group_of: dict[int, int] = {}

    def __len__(self) -> int:
        """Return how many requests are known by name."""
        return len(self._group_of)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._group_of

    @property
    def rows(self) -> NDArray[np.float64]:
        """The groups, shape (G, 3) [requests, tokens, tokens]."""
        return self.groups[self._front : self._size]

    def age(self, executed: float, batches: int = 1) -> None:
        """Let the first ``executed`` requests decode a token in each of some batches."""
        for _ in range(batches):
            _age(self.rows, self._size - self._front, float(executed))

    def begin(self, request_ids: tuple[int, ...], tokens: float = 1.0, ever: float = 0.0) -> None:
        """Append requests that have so many tokens, and had so many ever."""
        each = -(-len(request_ids) // PARTS)
        for first in range(0, len(request_ids), max(each, 1)):
            self._append(request_ids[first : first + each], tokens, max(tokens, ever))

    def _append(self, request_ids: tuple[int, ...], tokens: float, ever: float) -> None:
        if self._size == GROUPS:
            self._make_room()
        self.groups[self._size] = len(request_ids), tokens, ever
        serial = self._base + self._size
        for request_id in request_ids:
            self._group_of[request_id] = serial
        self._size += 1
        self.total += len(request_ids)

    def end(self, request_id: int) -> bool:
        """Remove a request; return whether it was there."""
        serial = self._group_of.pop(request_id, None)
        if serial is None:
            return False
        i = serial - self._base
        if 0 <= i < self._size:
            taken = min(1.0, self.groups[i, COUNT])
            self.groups[i, COUNT] -= taken
            self.total -= taken
        self._drop_front()
        return True

    def oldest(self, count: int) -> list[int]:
        """Return who began first, so many at most."""
        return [each for each, _ in zip(self._group_of, range(count), strict=False)]

    def where(self, request_id: int) -> tuple[float, float]:
        """Return tokens since the latest start, and ever, of the group of a request."""
        _, age, furthest = self.groups[self._group_of[request_id] - self._base]
        return float(age), float(furthest)

    def _drop_front(self) -> None:
        front = self._front
        while front < self._size and self.groups[front, COUNT] <= 0.0:
            front += 1
        self._front = front
        # moving is dear, so it waits until a quarter is empty
        if front == self._size or front >= GROUPS // 4:
            self._move(front)

    def _move(self, dropped: int) -> None:
        self.groups[: self._size - dropped] = self.groups[dropped : self._size].copy()
        self._size -= dropped
        self._base += dropped
        self._front = 0

    def _make_room(self) -> None:
        """Let every two neighbours become one group."""
        alive = np.flatnonzero(self.groups[: self._size, COUNT] > 0.0)
        place = np.full(self._size, 0, np.int64)
        place[alive] = np.arange(alive.size) // 2
        merged = np.zeros((GROUPS, 3))
        rows = self.groups[alive]
        size = (alive.size + 1) // 2
        np.add.at(merged[:, COUNT], place[alive], rows[:, COUNT])
        for column in (AGE, FURTHEST):
            np.add.at(merged[:, column], place[alive], rows[:, COUNT] * rows[:, column])
        merged[:size, AGE:] /= merged[:size, COUNT, None]
        base = self._base
        self._group_of = {
            each: base + self._size + int(place[serial - base])
            for each, serial in self._group_of.items()
        }
        self._base = base + self._size
        self.groups, self._size, self._front = merged, size, 0
