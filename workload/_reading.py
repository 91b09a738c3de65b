"""A trace as read: its requests, what was left out, and where in the file each came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import Instance, RequestTable, WorkloadError, kind_of

OVERSIZED = "longer than the node can hold"


@dataclass(frozen=True, slots=True, eq=False)
class TraceReading:
    """A trace as read.

    Parameters
    ----------
    requests
        What is left, in arrival order.
    format
        Name of the format it was in.
    dropped
        How many rows were left out, by reason; a reader tells its user.
    row : shape (R,)
        Data row of the file (from 1) that each request came from.
    path
        The file.
    unit
        ``"s"`` where times are seconds; empty where their unit is that of the instance.
    notes
        What was assumed about the file, in sentences that a reader tells its user.
    lines : shape (rows of the file,)
        Line of the file of each data row; None where nobody knows.
    """

    requests: RequestTable
    format: str
    dropped: Mapping[str, int]
    row: NDArray[np.int64]
    path: Path
    unit: str = "s"
    notes: tuple[str, ...] = ()
    lines: NDArray[np.int64] | None = None

    def check_fits(self, instance: Instance) -> None:
        """Refuse a request that an instance cannot serve.

        Raises
        ------
        WorkloadError
            Naming the first row of the file whose prompt and answer together are too long, or whose
            client gives up or waits for an answer where the engine has no rule for it.
        """
        kind, requests = kind_of(instance), self.requests
        if not kind.knows_aborts:
            self._placed(lambda: requests.refuse_aborts(kind.name, self.path))
        if not kind.knows_sessions:
            whom = f"the engine {kind.name}"
            self._placed(lambda: requests.refuse_sessions(whom, self.path))
        need, most = self._tokens, kind_of(instance).largest_request(instance)
        at = np.flatnonzero(need > most.value)
        if at.size:
            first = at[np.argmin(self.row[at])]
            row = int(self.row[first])
            raise WorkloadError(
                f"can never finish; allowed: <= {most.words} ({at.size} of {need.size} requests "
                "are too long; --drop-oversized leaves them out)",
                path=self.path,
                row=row,
                column="prefill_length + decode_length",
                value=int(need[first]),
                line=None if self.lines is None else int(self.lines[row - 1]),
            )

    def _placed(self, check: Callable[[], None]) -> None:
        """Run a check of the requests; what it refuses is named by its row of the file."""
        try:
            check()
        except WorkloadError as error:
            row = int(self.row[(error.row or 1) - 1])
            raise WorkloadError(
                error.reason, path=self.path, row=row, column=error.column, value=error.value,
                line=None if self.lines is None else int(self.lines[row - 1]),
            ) from error  # fmt: skip

    def fitting(self, instance: Instance) -> TraceReading:
        """Return the reading without the requests that can never finish on an instance.

        Raises
        ------
        WorkloadError
            If no request can.
        """
        most = kind_of(instance).largest_request(instance)
        fits = self._tokens <= most.value
        if fits.all():
            return self
        if not fits.any():
            raise WorkloadError(
                f"none of {fits.size} requests can ever finish; allowed: <= {most.words}",
                path=self.path,
            )
        dropped = {**self.dropped, f"{OVERSIZED} ({most.words})": int((~fits).sum())}
        return replace(self, requests=self.requests.take(fits), dropped=dropped, row=self.row[fits])

    @property
    def _tokens(self) -> NDArray[np.int64]:
        return self.requests.prefill_length + self.requests.decode_length
