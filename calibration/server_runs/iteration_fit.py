"""The iterations of a server give its law."""

from __future__ import annotations

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.fitted import Fitted
from calibration.server_runs.iteration_rows import Gap, gap_between_steps, rows_of_iterations
from calibration.server_runs.iterations import IterationLog
from calibration.server_runs.law import fit_law
from calibration.server_runs.notes import notes_of_iterations
from calibration.server_runs.offsets import Estimate


def fit_iterations(log: IterationLog, capacity: float | None, block_size: float | None) -> Fitted:
    """Return the fit of the iterations of a server, and the one of the largest likely gap."""
    gap = gap_between_steps(log)

    def rows(between: Gap | None) -> BatchRows:
        return rows_of_iterations(log, between, kv_capacity=capacity, block_size=block_size)

    found = rows(gap)
    others = ()
    if gap is not None:
        others = tuple(fit_law(rows(each)) for each in gap.bounds())
    stated = None
    if log.kv_capacity is not None:
        said = log.kv_capacity
        stated = Estimate(said, said, said, samples=0, source="start of the log")
    return Fitted(
        "iterations", found, fit_law(found), others, kv_capacity=stated, gap=gap,
        notes=notes_of_iterations(log, gap, found, block_size),
    )  # fmt: skip
