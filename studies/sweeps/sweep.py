"""A sweep: points that are left to do, run and noted down as they finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from serving import ConfigError
from studies.pool import default_workers
from studies.sweeps.executors import Function, Row, on_dask, on_processes
from studies.sweeps.journal import Journal

LARGEST_CHUNK = 8
"""Points that a kill can cost each worker."""


def sweep(
    function: Function,
    shared: Any,
    points: Sequence[Any],
    journal: Journal,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Return the row of every point, in order; those in the journal are not run again.

    Parameters
    ----------
    function
        Of a module, from ``shared`` and a point to its row, a function of the two alone.
    shared
        What all points need.
    points
        What differs.
    journal
        Keeps what is finished.
    workers
        Processes; all cores by default.
    scheduler
        Address of a Dask cluster to run on instead.
    progress
        Called with the points done and to do.

    Raises
    ------
    ConfigError, FluidServeError
        If ``workers`` is not a whole number >= 1, or the workers are lost.
    """
    if workers is not None and (workers != int(workers) or workers < 1):
        raise ConfigError("workers", workers, "a whole number >= 1")
    left = [(index, point) for index, point in enumerate(points) if index not in journal.rows]
    workers = min(default_workers() if workers is None else workers, max(len(left), 1))
    if progress is not None:
        progress(len(points) - len(left), len(points))
    if left:
        lanes = workers if scheduler is None else 16
        size = max(1, min(LARGEST_CHUNK, len(left) // (4 * lanes)))
        chunks = [left[i : i + size] for i in range(0, len(left), size)]
        finished = (
            on_processes(function, shared, chunks, workers)
            if scheduler is None
            else on_dask(function, shared, chunks, scheduler)
        )
        with closing(finished):  # an interrupt while noting down ends the workers too
            for rows in finished:
                journal.add(rows)
                if progress is not None:
                    progress(len(journal.rows), len(points))
    return [journal.rows[index] for index in range(len(points))]
