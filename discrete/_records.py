"""Columns of what happened in a run, by the names of the run files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.csv_text import csv_pieces
from serving.files import atomic_write


class Records(Mapping[str, NDArray]):
    """A table as a struct of arrays: ``records["time"]``, ``records.to_frame()``.

    Parameters
    ----------
    columns
        Arrays of one length by name, in the order of the file.
    in_file
        Names of the columns that the run file holds; all by default.
    """

    def __init__(
        self, columns: Mapping[str, NDArray], in_file: Sequence[str] | None = None
    ) -> None:
        self._columns = dict(columns)
        self._in_file = tuple(columns if in_file is None else in_file)

    def __getitem__(self, name: str) -> NDArray:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """Return the number of columns; :attr:`rows` counts the rows."""
        return len(self._columns)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next(iter(self._columns.values())).size

    def to_frame(self) -> Any:
        """Return the table as a ``pandas.DataFrame``."""
        import pandas as pd

        return pd.DataFrame(self._columns)

    def write_csv(self, path: str | Path) -> None:
        """Write the columns of the run file; every float in full, NaN where undefined.

        Raises
        ------
        FileAccessError
            If the file cannot be written.
        """
        with atomic_write(path, "wb") as file:
            file.writelines(csv_pieces({name: self._columns[name] for name in self._in_file}))
