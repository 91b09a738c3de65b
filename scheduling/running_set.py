"""The pattern of who runs on an instance: groups of requests that began together, in their order.

No block and no request of its own is kept but the group that it belongs to, so that a batch costs
the same with ten requests and with ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.compilation import compiled

COUNT, AGE, FURTHEST, OF = range(4)
"""Columns of a group: requests alive, tokens since the latest start, tokens ever, and the class of
their lengths; as in :meth:`ode.Forecaster.march`."""

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
def binned(groups, classes, rows):
    """Write groups into at most ``len(rows)`` rows; return how many.

    Parameters
    ----------
    groups : shape (G, 4)
        In order.
    classes
        Numbers of classes are below it.
    rows : shape (R, 4)
        Filled. Where there are too many groups, those of one class become one within windows of
        the order. R is at least twice ``classes``.
    """
    most, alive, requests = rows.shape[0], 0, 0.0
    for i in range(groups.shape[0]):
        if groups[i, COUNT] > 0.0:
            alive += 1
            requests += groups[i, COUNT]
    window = 0.0 if alive <= most else requests / (most // classes - 1)
    written, first, inside = 0, 0, 0.0
    for i in range(groups.shape[0]):
        count = groups[i, COUNT]
        if count <= 0.0:
            continue
        if inside >= window:
            first, inside = written, 0.0
        at = written
        for j in range(first, written):
            if rows[j, OF] == groups[i, OF]:
                at = j
        if at == written:
            written += 1
            rows[at] = 0.0
            rows[at, OF] = groups[i, OF]
        rows[at, COUNT] += count
        rows[at, AGE] += count * groups[i, AGE]
        rows[at, FURTHEST] += count * groups[i, FURTHEST]
        inside += count
    for j in range(written):
        rows[j, AGE] /= rows[j, COUNT]
        rows[j, FURTHEST] = max(rows[j, AGE], rows[j, FURTHEST] / rows[j, COUNT])
    return written


class RunningSet:
    """Groups of running requests, the oldest first, and who belongs to which."""

    __slots__ = ("_base", "_front", "_group_of", "_prompt_of", "_size", "groups", "total")

    def __init__(self) -> None:
        self.groups: NDArray[np.float64] = np.zeros((GROUPS, 4))
        self._size, self._base, self._front, self.total = 0, 0, 0, 0.0
        self._group_of: dict[int, int] = {}
        self._prompt_of: dict[int, int] = {}

    @classmethod
    def of_groups(cls, groups: NDArray[np.float64]) -> RunningSet:
        """Return the set of these groups, of which nobody is known by name.

        Parameters
        ----------
        groups : shape (G, 4)
            As of :attr:`rows`; G is at most :data:`GROUPS`.
        """
        made = cls()
        made._size, made.total = len(groups), float(groups[:, COUNT].sum())
        made.groups[: len(groups)] = groups
        return made

    def __len__(self) -> int:
        """Return how many requests are known by name."""
        return len(self._group_of)

    def __iter__(self) -> Iterator[int]:
        """Go through those who are known by name."""
        return iter(self._group_of)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._group_of

    @property
    def rows(self) -> NDArray[np.float64]:
        """The groups, shape (G, 4) [requests, tokens, tokens, class]."""
        return self.groups[self._front : self._size]

    def age(self, executed: float, batches: int = 1) -> None:
        """Let the first requests decode a token in each of some batches.

        Parameters
        ----------
        executed : [requests]
            How many of the oldest have a place in a batch; infinite for all.
        batches
            So many batches.
        """
        if executed >= self.total:
            rows = self.rows
            rows[:, AGE] += batches
            np.maximum(rows[:, FURTHEST], rows[:, AGE], out=rows[:, FURTHEST])
            return
        for _ in range(batches):
            _age(self.rows, self._size - self._front, float(executed))

    def begin(self, requests: Sequence[tuple[int, int, int]]) -> None:
        """Append requests that have their first token.

        Parameters
        ----------
        requests
            Id, class of lengths and prompt [tokens] of each, in their order.
        """
        if len(requests) <= PARTS:
            for request_id, of, prompt in requests:
                self.put(request_id, of, prompt=prompt)
            return
        for of in sorted({of for _, of, _ in requests}):
            serial = self.put(None, of)
            for request_id, of_request, prompt in requests:
                if of_request == of:
                    self._group_of[request_id] = serial
                    self._prompt_of[request_id] = prompt
                    self.groups[serial - self._base, COUNT] += 1.0
                    self.total += 1.0

    def put(
        self, request_id: int | None, of: int, tokens: float = 1.0, ever: float = 0.0,
        prompt: int = 0,
    ) -> int:  # fmt: skip
        """Append a group of one request, or of none yet; return its serial number.

        Parameters
        ----------
        request_id
            None for a group of none yet.
        of
            Class of lengths.
        tokens, ever : [tokens]
            Since its latest start, and ever.
        prompt : [tokens]
            Of the request.
        """
        if self._size == GROUPS:
            self._make_room()
        count = 0.0 if request_id is None else 1.0
        self.groups[self._size] = count, tokens, max(tokens, ever), of
        serial = self._base + self._size
        if request_id is not None:
            self._group_of[request_id] = serial
            self._prompt_of[request_id] = prompt
        self._size += 1
        self.total += count
        return serial

    def gather(self, names: Mapping[int, int], row: Sequence[float]) -> None:
        """Append a group of whose requests some are known by name.

        Parameters
        ----------
        names : [tokens]
            Prompts by id.
        row : shape (4,)
            As of :attr:`groups`.
        """
        serial = self.put(None, int(row[OF]), row[AGE], row[FURTHEST])
        self.groups[serial - self._base, COUNT] = row[COUNT]
        self.total += row[COUNT]
        self._group_of.update(dict.fromkeys(names, serial))
        self._prompt_of.update(names)

    def rewind(self, batches: int) -> None:
        """Take the tokens of some batches from everybody, but for the first."""
        rows = self.rows
        rows[:, AGE:OF] = np.maximum(rows[:, AGE:OF] - batches, np.minimum(rows[:, AGE:OF], 1.0))

    def scale(self, total: float) -> None:
        """Let so many requests run, in the shares of the groups."""
        if total <= 0.0:
            self._move(self._size)
            self._group_of.clear()
            self._prompt_of.clear()
            self.total = 0.0
        elif self.total > 0.0:
            self.rows[:, COUNT] *= total / self.total
            self.total = total

    def names(self) -> list[dict[int, int]]:
        """Return who is known by name in each of :attr:`rows`, with prompts [tokens]."""
        found: list[dict[int, int]] = [{} for _ in self.rows]
        for each, serial in self._group_of.items():
            i = serial - self._base - self._front
            if 0 <= i < len(found):
                found[i][each] = self._prompt_of.get(each, 0)
        return found

    def end(self, request_id: int) -> bool:
        """Remove a request; return whether it was there."""
        serial = self._group_of.pop(request_id, None)
        self._prompt_of.pop(request_id, None)
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

    def where(self, request_id: int) -> tuple[float, float, int, int]:
        """Return tokens since the latest start, tokens ever, class and prompt of a request."""
        _, age, furthest, of = self.groups[self._group_of[request_id] - self._base]
        return float(age), float(furthest), int(of), self._prompt_of.get(request_id, 0)

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
        """Let every two neighbours of a class become one group."""
        old = self.rows
        merged, place = np.zeros((GROUPS, 4)), np.full(len(old), -1)
        open_at: dict[int, int] = {}
        size = 0
        for i, (count, age, furthest, of) in enumerate(old.tolist()):
            if count <= 0.0:
                continue
            at = open_at.pop(int(of), None)
            if at is None:
                at, size = size, size + 1
                open_at[int(of)] = at
            merged[at, OF] = of
            merged[at, :OF] += count, count * age, count * furthest
            place[i] = at
        merged[:size, AGE:OF] /= merged[:size, COUNT, None]
        first, base = self._base + self._front, self._base + self._size
        self._group_of = {
            each: base + int(place[serial - first]) for each, serial in self._group_of.items()
        }
        self.groups, self._base, self._size, self._front = merged, base, size, 0
