"""A refusal names the first value of a measurement that cannot be, with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError

MOST_TOKENS = 2.0**53
"""Up to this number a float64 holds every whole number; no server counts further."""

LATEST = 1e12
"""Largest time [s] of a clock: 1970 was 2e9 seconds ago, and 2e18 nanoseconds."""

SHORTEST = 1e-9
"""Smallest time [s] that a batch can take."""


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


def refuse_no_duration(
    seconds: NDArray, *, column: str, values: NDArray, path: Path | None = None
) -> None:
    """Refuse the first time that no batch can take.

    Parameters
    ----------
    seconds : shape (R,) [s]
        Times of batches.
    column, values, path
        As for :func:`refuse_first`, the values in the unit of the file.

    Raises
    ------
    WorkloadError
        Naming path, row, column and value.
    """
    refuse_first(
        (seconds < SHORTEST) | (seconds > LATEST), "allowed: a time from 1e-9 to 1e12 s",
        column=column, values=values, path=path,
    )  # fmt: skip


def refuse_implausible(
    columns: Mapping[str, NDArray],
    *,
    path: Path | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Refuse the first time beyond :data:`LATEST` and the first count that cannot be one.

    Parameters
    ----------
    columns
        Columns by name; those of :data:`CLOCKS` are times [s], the others counts.
    path, rows
        As for :func:`refuse_first`.

    Raises
    ------
    WorkloadError
        Naming path, row, column and value.
    """
    for name, values in columns.items():
        if name in CLOCKS:
            wrong, allowed = np.abs(values) > LATEST, "allowed: seconds up to 1e12"
        else:
            wrong, allowed = (
                (values < 0) | (values > MOST_TOKENS),
                "allowed: a number from 0 to 2^53",
            )
        refuse_first(wrong, allowed, column=name, values=values, path=path, rows=rows)


CLOCKS = frozenset({"time", "t_s", "arrival", "first token", "finish"})
"""Names of columns that hold times."""
