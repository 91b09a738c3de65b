"""Write request tables in the project's own format."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

from numpy.typing import NDArray

from serving import RequestTable
from serving.files import atomic_write

ROWS_AT_ONCE = 50_000
"""Rows that become text at once."""


def write_requests(requests: RequestTable, path: str | Path) -> None:
    """Write a table in the project's own CSV format, whole or not at all.

    Times are written with as many digits as it takes to read back the very same numbers.
    ``priority`` and ``predicted_decode_length`` are written where they say something. A name
    ending in .gz is compressed. Equal tables give equal bytes.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    columns: dict[str, NDArray] = {
        "arrival_time": requests.arrival_time,
        "prefill_length": requests.prefill_length,
        "decode_length": requests.decode_length,
    }
    if requests.priority.any():
        columns["priority"] = requests.priority
    if (requests.predicted_decode_length != requests.decode_length).any():
        columns["predicted_decode_length"] = requests.predicted_decode_length
    with atomic_write(path, "wb") as file:
        if str(path).endswith(".gz"):
            file.write(gzip.compress(b"".join(_text(columns, len(requests))), mtime=0))
        else:
            file.writelines(_text(columns, len(requests)))


def _text(columns: Mapping[str, NDArray], size: int) -> Iterator[bytes]:
    """Yield the file in pieces: an object for every number would take much memory."""
    yield (",".join(columns) + "\n").encode()
    for first in range(0, size, ROWS_AT_ONCE):
        texts = (
            map(repr, each[first : first + ROWS_AT_ONCE].tolist()) for each in columns.values()
        )
        yield "".join([",".join(row) + "\n" for row in zip(*texts, strict=True)]).encode()
