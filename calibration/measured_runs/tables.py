"""Requests of a measured run from a CSV of a client, those that failed included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.measured_runs.run import MeasuredRun
from calibration.refusal import refuse_first, refuse_implausible
from calibration.server_runs.requests import (
    ARRIVAL,
    E2EL,
    FAILED_REQUESTS,
    NO_OUTPUT,
    OUTPUT,
    PROMPT,
    TTFT,
    RequestLog,
)
from serving import WorkloadError
from workload import TextTable

FAILURE = "failed"
"""Column that is 1 for a request that failed."""


def has_failures(table: TextTable) -> bool:
    """Return whether a table says of each request whether it failed."""
    return FAILURE in table.columns


def from_failing_table(table: TextTable, name: str) -> MeasuredRun:
    """Return the run in a CSV with a column ``failed``.

    The end-to-end time of a request that failed is how long its client waited.

    Raises
    ------
    WorkloadError
        Naming row, column and value of the first that is wrong, or the column that is missing.
    """
    rows = np.arange(1, len(table) + 1)
    flags = table.numbers(FAILURE)
    refuse_first((flags != 0) & (flags != 1), "allowed: 0 | 1", column=FAILURE, values=flags,
                 path=table.path)  # fmt: skip
    failed = flags == 1
    arrival = table.numbers(_column(table, ARRIVAL))
    prompt = table.numbers(_column(table, PROMPT))
    output = table.numbers(_column(table, OUTPUT))
    e2el = table.numbers(_column(table, E2EL))
    ttft = _where_known(table, _column(table, TTFT), ~failed)
    refuse_implausible({"arrival": arrival, PROMPT[0]: prompt, OUTPUT[0]: output},
                       path=table.path, rows=rows)  # fmt: skip
    for column, values in ((PROMPT[0], prompt), (OUTPUT[0], output)):
        refuse_first(values % 1 != 0, "allowed: a whole number", column=column, values=values,
                     path=table.path)  # fmt: skip
    wrong = ~failed & ~((ttft >= 0) & (e2el >= ttft - 1e-9) & (e2el < np.inf))
    refuse_first(wrong, "the last token comes before the first", column=E2EL[0], values=e2el,
                 path=table.path)  # fmt: skip
    empty = ~failed & (output < 1)
    refuse_first(~failed & (prompt < 1), "allowed: a whole number >= 1", column=PROMPT[0],
                 values=prompt, path=table.path)  # fmt: skip
    if failed.all():
        raise WorkloadError("holds no request that completed", path=table.path)
    order = np.argsort(arrival, kind="stable")
    waited = e2el[failed]
    run = MeasuredRun(
        name=name,
        arrival=arrival[order] - arrival[order[0]],
        prompt_tokens=prompt[order].astype(np.int64),
        output_tokens=output[order].astype(np.int64),
        ttft=np.where(failed, np.nan, ttft)[order],
        e2el=np.where(failed, np.nan, e2el)[order],
        timeout=float(np.median(waited)) if waited.size else np.inf,
        waited=np.where(failed, e2el, np.nan)[order] if waited.size else None,
    )
    if empty.any():
        run = run.noted(f"{int(empty.sum())} answers have no token by the file")
    return run


def _column(table: TextTable, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise WorkloadError(f"a column is missing: one of {' | '.join(names)}", path=table.path)


def _where_known(table: TextTable, name: str, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a column that may be empty where a request failed; NaN there."""
    cells = [cell if good else "0" for cell, good in zip(table.columns[name], known, strict=True)]
    return np.where(known, TextTable(table.path, {name: cells}).numbers(name), np.nan)


def from_log(log: RequestLog, path: Path, name: str) -> MeasuredRun:
    """Return the run of a log of the requests that completed; others are counted."""
    notes = []
    for reason in (FAILED_REQUESTS, NO_OUTPUT):
        if log.dropped.get(reason):
            notes.append(f"{log.dropped[reason]} {reason} of {path.name} are left out")
    return MeasuredRun(
        name=name,
        arrival=log.arrival,
        prompt_tokens=log.prompt_tokens.astype(np.int64),
        output_tokens=log.output_tokens.astype(np.int64),
        ttft=log.first_token - log.arrival,
        e2el=log.finish - log.arrival,
        gaps=log.inter_token,
        dropped=dict(log.dropped),
        notes=tuple(notes),
    )
