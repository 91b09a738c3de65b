"""Give the later turns of a conversation an arrival time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serving import WorkloadError
from workload._json_rows import MISSING, JsonTable
from workload._table import Table

SESSION, DELAY = "session_id", "delay"
"""Keys of conversations: a later turn has a delay [unit of the arrivals] in place of an arrival."""


def with_later_turns(table: Table, arrival: str) -> tuple[Table, tuple[str, ...]]:
    """Return a table in which each turn of a session has an arrival time, and what to say of it.

    A later turn is sent its delay after the answer to the turn before. No file says when that
    was, so the time of the turn before takes its place: later turns come too early.

    Parameters
    ----------
    table
        Columns of a file.
    arrival
        Key of the arrival time.

    Raises
    ------
    WorkloadError
        If the first turn of a session has no arrival time.
    """
    if not isinstance(table, JsonTable) or not {SESSION, arrival} <= set(table.columns):
        return table, ()
    columns, lines = table.columns, table.lines
    if isinstance(columns[arrival], np.ndarray):  # every row has a number
        return table, ()
    times, sessions = list(columns[arrival]), columns[SESSION]
    delays = columns.get(DELAY, [MISSING] * lines.size)
    last: dict[str, float] = {}
    later = 0
    for row, (time, session, delay) in enumerate(zip(times, sessions, delays, strict=True)):
        name = repr(session)
        if time is MISSING and session is not MISSING:
            if name not in last:
                raise WorkloadError(
                    f"is missing: it is the first turn of session {name[:40]}",
                    path=table.path, row=row + 1, column=arrival,
                )  # fmt: skip
            wait = 0 if delay is MISSING else delay
            if type(wait) not in (int, float) or not 0 <= wait < 1e300:
                raise WorkloadError(
                    "allowed: a finite number >= 0",
                    path=table.path, row=row + 1, column=DELAY, value=wait,
                )  # fmt: skip
            times[row] = last[name] + wait
            later += 1
        if type(times[row]) in (int, float):
            last[name] = times[row]
    if not later:
        return table, ()
    said = (
        f"{table.path}: {later} later turns of sessions arrive their delay after the turn before "
        "arrived, not after it was answered, which the file does not say: they come too early"
    )
    return replace(table, columns={**columns, arrival: times}), (said,)
