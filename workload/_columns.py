"""Split text into columns, convert them, and name row, column and value of the first error."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError
from workload._bulk import Bulk, bulk_of
from workload._calendar import calendar_seconds
from workload._table import Ragged

SEPARATORS = {";": "semicolons", "|": "bars", " ": "spaces"}
"""Separators that other programs write and that this reader refuses by name."""

MOST_DIGITS = 100
"""Of an id in a list."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Columns of strings by header name, one value per data row.

    Parameters
    ----------
    path
        File they came from, for messages.
    columns
        Every column of the file, stripped header name to values.
    lines : shape (R,)
        Line of the file that each row ends on, from 1; None where nobody knows.
    bulk
        The same columns of a large file, which are converted without making strings.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: NDArray[np.int64] | None = None
    bulk: Bulk | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, path: Path) -> TextTable:
        """Split comma- or tab-separated text with a header; blank lines are no rows.

        Raises
        ------
        WorkloadError
            If there are no data rows or a row does not have the header's number of fields.
        """
        head = text.lstrip().partition("\n")[0]
        delimiter = "\t" if "\t" in head else ","
        bulk = bulk_of(text, delimiter)
        if bulk is not None:
            names = _header(bulk.header, path)
            bulk = bulk.named(names)
            return cls(path, bulk, bulk.lines, bulk)
        rows, lines = _split(text, delimiter, path)
        if not rows:
            raise WorkloadError("the file is empty", path=path)
        names, body = _header(rows[0], path), rows[1:]
        if not body:
            raise WorkloadError("there are no rows below the header", path=path)
        if set(map(len, body)) != {len(names)}:
            at = next(i for i, row in enumerate(body) if len(row) != len(names))
            raise WorkloadError(
                f"has {len(body[at])} fields; the header has {len(names)}",
                path=path, row=at + 1, line=lines[at + 1],
            )  # fmt: skip
        columns = dict(zip(names, zip(*body, strict=True), strict=True))
        return cls(path, columns, np.array(lines[1:], dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of rows."""
        if self.bulk is not None:
            return self.bulk.lines.size
        return len(next(iter(self.columns.values())))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers, shape (R,)."""
        fast = None if self.bulk is None else self.bulk.numbers(name)
        return numbers(self.columns[name], name, self.path) if fast is None else fast

    def integers_or_numbers(self, name: str) -> NDArray:
        """Return a column as int64 where whole values need it, else as finite numbers.

        Nanosecond clocks since 1970 do not fit a float64 without loss.
        """
        floats = self.numbers(name)
        if np.abs(floats).max() < 2**53 or (floats != np.floor(floats)).any():
            return floats
        try:
            return np.array(self.columns[name], dtype=np.int64)
        except (ValueError, OverflowError):
            return floats

    def first(self, name: str) -> str:
        """Return the first value of a column."""
        return self.columns[name][0] if self.bulk is None else self.bulk.first(name)

    def texts(self, name: str) -> Sequence[str]:
        """Return a column as text, without the spaces around it."""
        return [each.strip() for each in self.columns[name]]

    def id_lists(self, name: str) -> Ragged:
        """Return a column of lists, such as ``[1, 2]`` or ``1 2``, of whole numbers.

        Raises
        ------
        WorkloadError
            Naming the first value that is none.
        """
        texts = [each.strip().removeprefix("[").removesuffix("]") for each in self.columns[name]]
        lists = [each.replace(",", " ").split() for each in texts]
        for row, each in enumerate(lists, start=1):
            if not all(x.isascii() and x.isdigit() and len(x) < MOST_DIGITS for x in each):
                raise WorkloadError(
                    "allowed: a list of whole numbers >= 0",
                    path=self.path, row=row, column=name, value=self.columns[name][row - 1],
                )  # fmt: skip
        return Ragged.of_ids([list(map(int, each)) for each in lists])

    def seconds_of_day(self, name: str) -> NDArray[np.float64]:
        """Return a column of calendar times as seconds after midnight of the earliest's day."""
        fast = None if self.bulk is None else self.bulk.seconds_of_day(name)
        return calendar_seconds(self.columns[name], name, self.path) if fast is None else fast


def _split(text: str, delimiter: str, path: Path) -> tuple[list[list[str]], list[int]]:
    """Return the fields of every line that is not blank, and the line that each row ends on."""
    # An unclosed quote would swallow the rest of the file: strict makes it an error.
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    usual = csv.field_size_limit(len(text) + 1)  # a long prompt's content is a long field
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise WorkloadError(
            f"cannot be split into columns: {error}", path=path, line=reader.line_num
        ) from error
    finally:
        csv.field_size_limit(usual)
    return rows, lines


def _header(fields: Sequence[str], path: Path) -> list[str]:
    """Return the names of the columns."""
    names = [name.strip() for name in fields]
    if len(names) == 1:
        for separator, words in SEPARATORS.items():
            if len(names[0].split(separator)) > 2:
                raise WorkloadError(
                    f"the header {names[0][:80]!r} is separated by {words}; allowed: commas or "
                    "tabs, and a point in decimal numbers", path=path,
                )  # fmt: skip
    if all(np.isfinite(_number(name)) for name in names):
        raise WorkloadError("there is no header: the first line is all numbers", path=path)
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise WorkloadError("the header has this column twice", path=path, column=min(repeated))
    return names


def numbers(values: Sequence[str], name: str, path: Path) -> NDArray[np.float64]:
    """Return strings as finite numbers, shape (R,).

    Raises
    ------
    WorkloadError
        Naming the first that is not one.
    """
    try:
        out = np.array(values, dtype=np.float64)
    except ValueError:
        out = np.array([_number(value) for value in values])
    if not _is_plain(values):  # Python's number syntax also takes 1_000 and other scripts' digits
        out = np.array([_number(value) for value in values])
    wrong = ~np.isfinite(out)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(
            "allowed: a finite number", path=path, row=row + 1, column=name, value=values[row]
        )
    return out


def _is_plain(values: Sequence[str]) -> bool:
    joined = "".join(values)
    return "_" not in joined and joined.isascii()


def _number(value: str) -> float:
    try:
        return float(value) if _is_plain([value]) else float("nan")
    except ValueError:
        return float("nan")
