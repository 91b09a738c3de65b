"""Write request tables in the project's own format."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

from serving import RequestTable
from serving.files import atomic_write


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
    columns: dict[str, list] = {
        "arrival_time": requests.arrival_time.tolist(),
        "prefill_length": requests.prefill_length.tolist(),
        "decode_length": requests.decode_length.tolist(),
    }
    if requests.priority.any():
        columns["priority"] = requests.priority.tolist()
    if (requests.predicted_decode_length != requests.decode_length).any():
        columns["predicted_decode_length"] = requests.predicted_decode_length.tolist()
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    text.writelines(
        ",".join(map(repr, values)) + "\n" for values in zip(*columns.values(), strict=True)
    )
    data = text.getvalue().encode()
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)
