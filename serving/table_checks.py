"""Checks of the columns of a request table, where they enter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.errors import WorkloadError
from serving.request_mix import LONGEST_DECODE


def whole_column(
    column: ArrayLike, name: str, size: int, path: str | Path | None
) -> NDArray[np.int64]:
    """Return a column as int64, refusing fractions and lengths out of bounds.

    Raises
    ------
    WorkloadError
        Naming the first value that is wrong.
    """
    raw = np.asarray(column)
    if raw.shape != (size,):
        raise WorkloadError(f"has {raw.size} values for {size} requests", path=path, column=name)
    values = raw.astype(np.float64)
    refuse_where(
        ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**53),
        raw,
        name,
        "allowed: a whole number",
        path,
    )
    if name.endswith("_length"):
        refuse_where(values < 1, raw, name, "allowed: >= 1", path)
    if name == "decode_length":
        refuse_where(values > LONGEST_DECODE, raw, name, f"allowed: <= {LONGEST_DECODE}", path)
    return raw.astype(np.int64)


def time_column(
    given: ArrayLike | None, name: str, absent: float, shape: tuple[int, ...],
    path: str | Path | None,
) -> NDArray[np.float64]:  # fmt: skip
    """Return a column of times [time]; ``absent`` for every request where none is given.

    Raises
    ------
    WorkloadError
        If these are no times, or not as many as requests.
    """
    if given is None:
        return np.full(shape, absent)
    try:
        times = np.asarray(given, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        times = np.empty((0, 0))
    if times.shape != shape:
        reason = f"has {times.size} values for {shape[0]} requests"
        raise WorkloadError(reason, path=path, column=name)
    return times


def refuse_where(
    wrong: NDArray[np.bool_], values: NDArray, column: str, reason: str, path: str | Path | None
) -> None:
    """Refuse the first value that is wrong, if one is.

    Raises
    ------
    WorkloadError
        Naming path, row (from 1), column and value.
    """
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(reason, path=path, row=row + 1, column=column, value=values[row].item())
