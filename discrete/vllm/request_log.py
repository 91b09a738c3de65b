"""The request log: a CSV file with one row per request, of its times and its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.layout import status_words
from serving import RequestTable
from serving.csv_text import csv_pieces
from serving.files import atomic_write


def write_request_log(
    path: str | Path, table: RequestTable, req: NDArray, *, extended: bool = False
) -> None:
    """Write the request log; it appears whole or not at all.

    Parameters
    ----------
    table, req
        The requests as they were given, and their records.
    extended
        Whether to write the columns of the V1 extensions.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    columns: dict[str, NDArray] = {
        "rid": np.arange(req.size),
        "arrival": table.arrival_time,
        "prompt": req["prompt"],
        "output": req["output"],
        "first_sched": req["first_sched"],
        "first_token": req["first_token"],
        "done": req["done"],
        "n_preempt": req["preemptions"],
        "n_swap_in": req["swap_ins"],
        "recomputed": req["recomputed"],
        "status": status_words(req["status"]),
    }
    if extended:
        abort = table.abort_time
        columns |= {
            "priority": table.priority,
            "abort": np.where(np.isinf(abort), np.nan, abort),
            "hit_tokens": req["hit_tokens"],
            "accepted": req["accepted"],
        }
    with atomic_write(path, "wb") as file:
        file.writelines(csv_pieces(columns, nan=""))
