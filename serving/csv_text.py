"""Columns of numbers and words as the text of a CSV file, in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np
import orjson
from numpy.typing import NDArray

ROWS_AT_ONCE = 10_000
"""Rows of a piece: few enough that its memory is used again and not asked of the system anew."""

PLAIN = (1e-4, 1e16)
"""Magnitudes from and below which Python writes a float without an exponent."""


def csv_pieces(columns: Mapping[str, NDArray], nan: str = "NaN") -> Iterator[bytes]:
    """Yield the text of a CSV file with a header, piece by piece.

    Parameters
    ----------
    columns
        Arrays of one length by name: floats, whole numbers, booleans or words without commas
        and line breaks.
    nan
        What stands for a float that is not a number.

    Notes
    -----
    Each number reads back as the very same number. Its text is Python's, the shortest that does
    so; compiled code makes it, several times faster than ``repr`` of each number.
    """
    yield (",".join(columns) + "\n").encode()
    arrays = list(columns.values())
    for first in range(0, len(arrays[0]), ROWS_AT_ONCE):
        part = [each[first : first + ROWS_AT_ONCE] for each in arrays]
        yield _rows(part, nan.encode())


def _rows(columns: list[NDArray], nan: bytes) -> bytes:
    """Return rows as text; neighbouring columns of one kind are written as one matrix."""
    parts = [_texts(kind, list(group), nan) for kind, group in groupby(columns, _kind)]
    if len(parts) == 1:
        return b"\n".join(parts[0]) + b"\n"
    return b"\n".join(map(b",".join, zip(*parts, strict=True))) + b"\n"


def _kind(column: NDArray) -> str:
    kind = column.dtype.kind
    return {"f": "float", "i": "whole", "u": "whole"}.get(kind, "words")


def _texts(kind: str, columns: list[NDArray], nan: bytes) -> list[bytes]:
    """Return the rows of columns of one kind, each as text."""
    if kind == "words":
        rows = [_words(each) for each in columns]
        return rows[0] if len(rows) == 1 else list(map(b",".join, zip(*rows, strict=True)))
    if kind == "whole":
        return _json_rows(np.column_stack(columns).astype(np.int64))
    matrix = np.column_stack(columns).astype(np.float64)
    rows = _json_rows(matrix)
    if np.isnan(matrix).any():
        rows = [row.replace(b"null", nan) for row in rows]
    size = np.abs(matrix)
    has_exponent = (size != 0) & ~np.isnan(size) & ((size < PLAIN[0]) | (size >= PLAIN[1]))
    for i in np.flatnonzero(has_exponent.any(axis=1)):
        words = (nan.decode() if x != x else repr(x) for x in matrix[i].tolist())
        rows[i] = ",".join(words).encode()
    return rows


def _words(column: NDArray) -> list[bytes]:
    """Return words as bytes; one text of them all is encoded faster than each."""
    return "\n".join(map(str, column.tolist())).encode().split(b"\n")


def _json_rows(matrix: NDArray) -> list[bytes]:
    text = orjson.dumps(np.ascontiguousarray(matrix), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[2:-2].split(b"],[")
