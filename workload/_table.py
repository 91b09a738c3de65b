"""What every reader of columns gives, and what a format says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError

LARGEST_ID = 10**18
"""Largest number of a content that is written and read."""


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """A list of whole numbers per row.

    Parameters
    ----------
    first : shape (R + 1,)
        Row r has the values ``first[r]`` to ``first[r + 1] - 1``.
    values
        The lists one after another.
    """

    first: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Sequence[int], values: NDArray[np.int64]) -> Ragged:
        """Return lists of so many values each."""
        return cls(np.cumsum([0, *counts], dtype=np.int64), values)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Ragged:
        """Return lists that are written out as ``[1, 2]``, in at most 18 digits each."""
        counts = [each.count(",") + (each != "[]") for each in texts]
        plain = ",".join(each[1:-1] for each in texts if each != "[]")
        flat = np.fromstring(plain, dtype=np.int64, sep=",") if plain else np.empty(0, np.int64)
        return cls.of(counts, flat)

    @classmethod
    def of_ids(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        """Return lists of ids >= 0; where one is too large to write, they are counted off."""
        flat = [each for one in lists for each in one]
        if flat and max(flat) >= LARGEST_ID:
            rank = {each: k for k, each in enumerate(sorted(set(flat)))}
            flat = [rank[each] for each in flat]
        return cls.of([len(one) for one in lists], np.array(flat, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the rows of all parts."""
        counts = np.concatenate([np.diff(each.first) for each in parts])
        return cls.of(counts.tolist(), np.concatenate([each.values for each in parts]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Values of each row, shape (R,)."""
        return np.diff(self.first)


class Table(Protocol):
    """Columns of a file, as text and JSON readers give them."""

    @property
    def path(self) -> Path:
        """File they came from."""
        ...

    @property
    def columns(self) -> Mapping[str, object]:
        """Every column by its name."""
        ...

    @property
    def lines(self) -> NDArray[np.int64] | None:
        """Line of the file of each row."""
        ...

    def __len__(self) -> int: ...

    def first(self, name: str) -> object:
        """Return the first value of a column."""
        ...

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers."""
        ...

    def integers_or_numbers(self, name: str) -> NDArray:
        """Return a column as whole numbers where it can be, else as finite numbers."""
        ...

    def texts(self, name: str) -> Sequence[str]:
        """Return a column as text, empty where there is none."""
        ...

    def id_lists(self, name: str) -> Ragged:
        """Return a column of lists of whole numbers >= 0."""
        ...

    def seconds_of_day(self, name: str) -> NDArray[np.float64]:
        """Return a column of calendar times as seconds."""
        ...


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format.

    Parameters
    ----------
    name
        How users name it.
    arrival, prefill, decode
        Names of columns; ``arrival`` is empty where the file holds lengths only.
    unit
        Unit of arrival times that are numbers; empty where it is that of the instance.
    unit_is_certain
        Whether the column's name says the unit. Where it does not, files in other units exist.
    optional
        Names of further columns that a request table has too.
    marker
        Another column that tells the format from one it otherwise looks like.
    at_once
        Whether the file has no arrival times because all requests are there at time 0.
    """

    name: str
    arrival: str
    prefill: str
    decode: str
    unit: str = "s"
    unit_is_certain: bool = True
    optional: tuple[str, ...] = ()
    marker: str = ""
    at_once: bool = False

    @property
    def is_trace(self) -> bool:
        """Whether the file says when requests come, and not only how long they are."""
        return bool(self.arrival) or self.at_once

    @property
    def required(self) -> tuple[str, ...]:
        """Names without which a file is not of this format."""
        return tuple(
            each for each in (self.arrival, self.prefill, self.decode, self.marker) if each
        )


def placed(error: WorkloadError, table: Table) -> WorkloadError:
    """Return an error about a row of a table with the line of the file that the row is on."""
    if error.row is None or error.line is not None or table.lines is None:
        return error
    return error.at_line(int(table.lines[error.row - 1]))
