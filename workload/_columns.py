"""Convert text columns to arrays fast, and name row, column and value of the first error."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import FileAccessError, WorkloadError

GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: Path) -> str:
    """Return the text of a plain or gzip file.

    Raises
    ------
    FileAccessError
        If it cannot be opened.
    WorkloadError
        If it is empty, damaged or not UTF-8 text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read: {error.strerror}") from error
    if raw.startswith(GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise WorkloadError(f"the gzip data is damaged: {error}", path=path) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkloadError(
            f"not a text file: byte {error.start} is not UTF-8", path=path
        ) from error
    if "\0" in text:
        raise WorkloadError("not a text file: it holds zero bytes", path=path)
    if not text.strip():
        raise WorkloadError("the file is empty", path=path)
    return text


@dataclass(frozen=True, slots=True)
class TextTable:
    """Columns of strings by header name, one value per data row.

    Parameters
    ----------
    path
        File they came from, for messages.
    columns
        Every column of the file, stripped header name to values.
    """

    path: Path
    columns: dict[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str, path: Path) -> TextTable:
        """Split comma- or tab-separated text with a header.

        Raises
        ------
        WorkloadError
            If there are no data rows or a row does not have the header's number of fields.
        """
        delimiter = "\t" if "\t" in text.lstrip().partition("\n")[0] else ","
        try:
            # An unclosed quote would swallow the rest of the file: strict makes it an error.
            rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise WorkloadError(f"cannot be split into columns: {error}", path=path) from error
        while rows and not rows[-1]:
            rows.pop()
        header = next((at for at, row in enumerate(rows) if row), 0)
        names, body = [name.strip() for name in rows[header]], rows[header + 1 :]
        if all(np.isfinite(_number(name)) for name in names):
            raise WorkloadError("there is no header: the first line is all numbers", path=path)
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise WorkloadError("the header has this column twice", path=path, column=min(repeated))
        if not body:
            raise WorkloadError("there are no rows below the header", path=path)
        if set(map(len, body)) != {len(names)}:
            at = next(i for i, row in enumerate(body) if len(row) != len(names))
            raise WorkloadError(
                f"has {len(body[at])} fields; the header has {len(names)}", path=path, row=at + 1
            )
        return cls(path, dict(zip(names, zip(*body, strict=True), strict=True)))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers, shape (R,)."""
        return numbers(self.columns[name], name, self.path)

    def integers_or_numbers(self, name: str) -> NDArray:
        """Return a column as int64 where every value is whole, else as finite numbers.

        Nanosecond clocks since 1970 do not fit a float64 without loss.
        """
        try:
            exact = np.array(self.columns[name], dtype=np.int64)
        except (ValueError, OverflowError):
            return self.numbers(name)
        return exact if _is_plain(self.columns[name]) else self.numbers(name)

    def seconds_of_day(self, name: str) -> NDArray[np.float64]:
        """Return a column of calendar times as seconds after midnight of the earliest's day."""
        return calendar_seconds(self.columns[name], name, self.path)


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


def calendar_seconds(values: Sequence[str], name: str, path: Path) -> NDArray[np.float64]:
    """Return ``YYYY-MM-DD HH:MM:SS[.fraction]`` strings as seconds, to the nanosecond.

    A zone of ``Z`` or ``+00:00`` is taken off; others are refused, as are numbers and bare dates.

    Raises
    ------
    WorkloadError
        Naming the first that is not such a time.
    """
    plain = [value.strip().removesuffix("Z").removesuffix("+00:00") for value in values]
    try:
        stamp = _stamps(plain)
    except (ValueError, Warning):
        stamp = np.array([_stamp(value) for value in plain])
    wrong = np.isnat(stamp) | np.array([len(value) < 16 for value in plain])
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(
            "allowed: a time such as 2023-11-16 18:15:46.680 (UTC or no zone)",
            path=path,
            row=row + 1,
            column=name,
            value=values[row],
        )
    since_midnight = stamp - stamp.min().astype("datetime64[D]")
    return since_midnight.astype(np.int64) / 1e9


def _stamps(values: Sequence[str]) -> NDArray[np.datetime64]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns of a zone it ignores
        return np.array(values, dtype="datetime64[ns]")


def _stamp(value: str) -> np.datetime64:
    try:
        return _stamps([value])[0]
    except (ValueError, Warning):
        return np.datetime64("NaT", "ns")


def _is_plain(values: Sequence[str]) -> bool:
    joined = "".join(values)
    return "_" not in joined and joined.isascii()


def _number(value: str) -> float:
    try:
        return float(value) if _is_plain([value]) else float("nan")
    except ValueError:
        return float("nan")
