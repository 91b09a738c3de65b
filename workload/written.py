"""Write request tables in the project's own format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import RequestTable
from serving.arguments import checked
from serving.csv_text import csv_pieces
from serving.files import atomic_write
from serving.request_table import NO_SESSION
from workload._contents import ABORT, ANSWER, CONTENT, pieces_text
from workload._sessions import SESSION, THINK


@checked()
def write_requests(requests: RequestTable, path: str | Path) -> None:
    """Write a table in the project's own CSV format, whole or not at all.

    Times are written with as many digits as it takes to read back the very same numbers.
    Other columns are written where they say something. A name ending in .gz is compressed. Equal
    tables give equal bytes.

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
    if requests.has_aborts:
        columns[ABORT] = np.where(np.isfinite(requests.abort_time), requests.abort_time, np.nan)
    if requests.has_sessions:
        numbers = [str(each) if each > NO_SESSION else "" for each in requests.session.tolist()]
        columns[SESSION] = np.array(numbers, dtype=object)
    if requests.think_time.any():
        columns[THINK] = requests.think_time
    contents = requests.contents
    if contents is not None and contents.piece_id.size:
        columns[CONTENT] = np.array(pieces_text(contents), dtype=object)
    if contents is not None and contents.answer.any():
        columns[ANSWER] = contents.answer
    with atomic_write(path, "wb") as file:
        if str(path).endswith(".gz"):
            file.write(gzip.compress(b"".join(csv_pieces(columns, "")), mtime=0))
        else:
            file.writelines(csv_pieces(columns, ""))
