"""Convert the columns of a large table with pandas' C reader, without a string per value.

Whatever is not plain enough (a quote, a row of another length, a value that is no number) is left
to the exact reader of :mod:`workload._columns`, which reads it or names what is wrong with it. So
there is one set of rules, and a column comes out the same either way.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workload._calendar import FIRST_YEAR, FORM, LAST_YEAR, ahead_of_utc, has_zone, since_midnight

BULK_BYTES = 1_000_000
"""Smaller tables take less time than it takes to load pandas."""


@dataclass(frozen=True, slots=True)
class Bulk(Mapping[str, tuple[str, ...]]):
    """Columns of a table in which every row has the same number of unquoted fields.

    As a mapping it makes the strings of a column when they are asked for.

    Parameters
    ----------
    data
        The rows without the header, one per line, each ending in a newline; the first is not
        blank.
    delimiter
        What separates the fields.
    header
        Fields of the header.
    lines : shape (R,)
        Line of the file that each row is on, from 1.
    names
        Names of the columns.
    """

    data: bytes
    delimiter: str
    header: list[str]
    lines: NDArray[np.int64]
    names: tuple[str, ...] = ()
    _read: dict[str, NDArray | None] = field(default_factory=dict, repr=False)

    def named(self, names: list[str]) -> Bulk:
        """Return the columns under these names."""
        return replace(self, names=tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        start, end = self._bounds(name)
        data = self.data
        return tuple(data[a:b].decode() for a, b in zip(start.tolist(), end.tolist(), strict=True))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def first(self, name: str) -> str:
        """Return the first value of a column."""
        line = self.data[: self.data.index(b"\n")].decode()
        return line.split(self.delimiter)[self.names.index(name)]

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return a column as finite numbers, shape (R,); None where a value is none."""
        if not self._read:
            likely = [each for each in self.names if _is_number(self.first(each))]
            values = self._parse(likely) or {}
            self._read.update(values or dict.fromkeys(likely))
        if self._read.get(name) is None and _is_number(self.first(name)):
            self._read.update(self._parse([name]) or {})
        return self._read.get(name)

    def seconds_of_day(self, name: str) -> NDArray[np.float64] | None:
        """Return calendar times as seconds from midnight of the earliest's day, shape (R,).

        None where they do not all have seconds and the same zone.
        """
        match = FORM.fullmatch(self.first(name))
        if match is None:
            return None
        start, end = self._bounds(name)
        text = np.frombuffer(self.data, np.uint8)
        ahead = np.timedelta64(0, "m")
        if has_zone(match):
            zone = match[0][match.end(2) :].encode()
            for at, byte in enumerate(reversed(zone), start=1):
                if (text[end - at] != byte).any():
                    return None
            end = end - len(zone)
            offset = ahead_of_utc(match)
            if offset is None:
                return None
            ahead = offset
        stamps = _moments(text, start, end)
        return None if stamps is None else since_midnight(stamps - ahead)

    def _bounds(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the values of a column start and end in the data, shape (R,) each."""
        raw, at = np.frombuffer(self.data, np.uint8), self.names.index(name)
        starts, ends = _rows(raw)
        marks = np.flatnonzero(raw == ord(self.delimiter)).reshape(starts.size, -1)
        start = marks[:, at - 1] + 1 if at else starts
        return start, marks[:, at] if at < marks.shape[1] else ends

    def _parse(self, names: list[str]) -> dict[str, NDArray] | None:
        """Return columns of finite numbers, shape (R,) each; None where a value is none."""
        at = [self.names.index(name) for name in names]
        table = parsed(self.data, self.delimiter, at) if at else None
        if table is None or len(table) != self.lines.size:
            return None
        columns = {name: table[:, k] for k, name in enumerate(sorted(names, key=self.names.index))}
        return columns if all(np.isfinite(each).all() for each in columns.values()) else None


def parsed(
    data: bytes, delimiter: str, columns: list[int] | None = None
) -> NDArray[np.float64] | None:
    """Return some columns of plain rows as numbers, shape (R, C); None where a value is none."""
    import pandas

    exact: dict[str, Any] = {}
    if tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1):
        exact["float_precision"] = "round_trip"  # later versions always read exactly
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return pandas.read_csv(
                io.BytesIO(data), sep=delimiter, header=None, index_col=False, usecols=columns,
                dtype=np.float64, engine="c", quoting=3, na_filter=False, low_memory=False,
                encoding="utf-8", **exact,
            ).to_numpy()  # fmt: skip
    except (ValueError, OverflowError, Warning):
        return None


def _is_number(value: str) -> bool:
    """Return whether a value is a finite number; pandas would take a column of ``true`` for 1."""
    try:
        return np.isfinite(float(value))
    except ValueError:
        return False


def bulk_of(text: str, delimiter: str) -> Bulk | None:
    """Return a large table of plain rows; None for any other, which has to be read row by row."""
    if len(text) < BULK_BYTES or '"' in text or text.count("\r") != text.count("\r\n"):
        return None
    text = text.replace("\r\n", "\n")
    start = len(text) - len(text.lstrip("\n"))
    end = text.find("\n", start) + 1 or len(text)
    header = text[start:end].rstrip("\n").split(delimiter)
    rest = text[end:].lstrip("\n")
    above = start + 1 + len(text) - end - len(rest)
    data = rest.encode()
    if not data.endswith(b"\n"):
        data += b"\n"
    raw = np.frombuffer(data, np.uint8)
    _, ends = _rows(raw)
    marks = np.flatnonzero(raw == ord(delimiter))
    between = np.searchsorted(marks, ends)
    if ends.size == 0 or (between != (len(header) - 1) * np.arange(1, ends.size + 1)).any():
        return None  # a row has another number of fields, or is blank but for spaces
    newlines = np.flatnonzero(raw == ord("\n"))
    lines = np.searchsorted(newlines, ends) + above + 1
    return Bulk(data, delimiter, header, lines)


def _rows(raw: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each line that is not empty starts and ends, shape (R,) each."""
    ends = np.flatnonzero(raw == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    filled = ends > starts
    return starts[filled], ends[filled]


def _moments(
    text: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.datetime64] | None:
    """Return ``YYYY-MM-DD HH:MM:SS[.fraction]`` as moments; None where one has another form."""
    length = end - start
    if length.min() < 19 or length.max() > 29 or (length == 20).any():
        return None

    def digit(at: int) -> NDArray[np.int64]:
        return text[start + at].astype(np.int64) - ord("0")

    places = [at for at in range(19) if at not in (4, 7, 10, 13, 16)]
    digits = {at: digit(at) for at in places}
    wrong = np.zeros(start.size, bool)
    for each in digits.values():
        wrong |= (each < 0) | (each > 9)
    for at, allowed in ((4, b"-"), (7, b"-"), (10, b" T"), (13, b":"), (16, b":")):
        wrong |= ~np.isin(text[start + at], np.frombuffer(allowed, np.uint8))
    fraction = np.zeros(start.size, np.int64)
    if length.max() > 19:
        wrong |= (length > 19) & (text[np.where(length > 19, start + 19, start)] != ord("."))
        for at in range(20, 29):
            inside = length > at
            value = np.where(inside, text[np.where(inside, start + at, start)], ord("0"))
            wrong |= (value < ord("0")) | (value > ord("9"))
            fraction = 10 * fraction + (value.astype(np.int64) - ord("0"))
    year = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3]
    month, day = digits[5] * 10 + digits[6], digits[8] * 10 + digits[9]
    hour, minute = digits[11] * 10 + digits[12], digits[14] * 10 + digits[15]
    second = digits[17] * 10 + digits[18]
    wrong |= (year < int(FIRST_YEAR)) | (year > int(LAST_YEAR)) | (month < 1) | (month > 12)
    wrong |= (hour > 23) | (minute > 59) | (second > 59) | (day < 1)
    if wrong.any():
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():  # such as 31 April
        return None
    whole = ((hour * 60 + minute) * 60 + second) * 10**9 + fraction
    return days.astype("datetime64[ns]") + whole.astype("timedelta64[ns]")
