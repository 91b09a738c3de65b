"""Many short runs as one: draws that come so far apart that the engine is empty in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import kind_of
from studies.question import Question
from workload import Workload, replication_seed

SPACE = 64.0
"""Horizons from the start of one draw to that of the next. A draw that takes longer is no failure:
it is seen, and runs alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """Runs that followed each other in one run of the engine.

    Parameters
    ----------
    run
        All of them.
    rows : shape (R + 1,)
        Rows of the table between which each run is.
    start : shape (R,) [time]
        When each begins.
    times : shape (R * G,) [time]
        At which the state was noted, G of each run.
    """

    run: discrete.Run
    rows: NDArray[np.int64]
    start: NDArray[np.float64]
    times: NDArray[np.float64]


def can_be_joined(question: Question) -> bool:
    """Return whether runs of a question may follow each other in one run of the engine."""
    source = question.source
    is_plain = isinstance(source, Workload) and source.conversations is None
    return is_plain and kind_of(question.instance).forgets(question.instance)


def joined(
    question: Question,
    first: int,
    count: int,
    grid: NDArray[np.float64],
    *,
    record_batches: bool = False,
    progress: Callable[[discrete.Progress], None] | None = None,
) -> Apart | None:
    """Run replications ``first`` to ``first + count - 1`` as one; None if they met each other.

    Parameters
    ----------
    question
        With a horizon; one of which :func:`can_be_joined` holds.
    grid : shape (G,) [time]
        Times of each replication at which to note the state.
    record_batches, progress
        See :func:`discrete.simulate`.

    Raises
    ------
    WorkloadError
        If no replication has a request.
    """
    apart = SPACE * question.end
    seeds = [replication_seed(question.seed, first + k) for k in range(count)]
    table, rows = question.stream.sample_apart(seeds, question.end, apart)
    start = apart * np.arange(count, dtype=np.float64)
    times = (start[:, None] + grid).ravel()
    run = discrete.simulate(
        table,
        question.instance,
        seed=question.seed + first,
        record_batches=record_batches,
        sample_times=times,
        progress=progress,
    )
    # of those who never completed (an engine may ignore some) no end is known, and none is needed
    done = np.maximum.accumulate(np.nan_to_num(run.requests["completion_time"], nan=0.0))
    ends = done[np.maximum(rows[1:] - 1, 0)]
    if not run.finished or (ends[:-1] >= start[1:]).any():
        return None
    return Apart(run, rows, start, times)
