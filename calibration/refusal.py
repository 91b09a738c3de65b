"""A refusal names the first value of a measurement that cannot be, with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError


def refuse_first(
    wrong: NDArray[np.bool_],
    reason: str,
    *,
    column: str,
    values: NDArray,
    path: Path | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Raise an error about the first row that is wrong; do nothing without such a row.

    Parameters
    ----------
    wrong : shape (R,)
        Whether each row is wrong.
    reason
        What is wrong, in words.
    column
        Name of the column.
    values : shape (R,)
        Values to quote in the error.
    path
        File that the rows come from.
    rows : shape (R,)
        Number of each row in the file; 1, 2, ... without it.

    Raises
    ------
    WorkloadError
        Naming path, row, column and value.
    """
    if wrong.any():
        at = int(np.argmax(wrong))
        row = at + 1 if rows is None else int(rows[at])
        raise WorkloadError(reason, path=path, row=row, column=column, value=float(values[at]))
