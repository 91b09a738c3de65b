"""Give the later turns of a conversation an arrival time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serving import WorkloadError
from workload._clock import UNITS
from workload._json_rows import MISSING, JsonTable
from workload._table import Table

SESSION = "session_id"
"""Key of the conversation that a request is a turn of."""

DELAYS = ("delay", "delay_ms")
"""Keys that a later turn has in place of an arrival, the first in the unit of the arrivals."""


def with_later_turns(
    table: Table, arrival: str, unit: str | None
) -> tuple[Table, str | None, tuple[str, ...]]:
    """Return a table in which each turn of a session has an arrival time.

    Also the unit of the arrivals, where someone says it, and what to say of the turns.

    A later turn is sent its delay after the answer to the turn before. No file says when that
    was, so the time of the turn before takes its place: later turns come too early.

    Parameters
    ----------
    table
        Columns of a file.
    arrival
        Key of the arrival time.
    unit
        Unit of the arrivals that the user says. Where nobody does and delays are in ms, so are the
        arrivals.

    Raises
    ------
    WorkloadError
        If the first turn of a session has no arrival time.
    """
    if not isinstance(table, JsonTable) or not {SESSION, arrival} <= set(table.columns):
        return table, unit, ()
    columns, lines = table.columns, table.lines
    if isinstance(columns[arrival], np.ndarray):  # every row has a number
        return table, unit, ()
    times, sessions = list(columns[arrival]), columns[SESSION]
    key = next((key for key in DELAYS if key in columns), DELAYS[0])
    delays = columns.get(key, [MISSING] * lines.size)
    ticks = 1.0
    if key != DELAYS[0]:
        unit = unit or "ms"
        ticks = UNITS[unit] / UNITS["ms"]
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
                    path=table.path, row=row + 1, column=key, value=wait,
                )  # fmt: skip
            times[row] = last[name] + wait * ticks
            later += 1
        if type(times[row]) in (int, float):
            last[name] = times[row]
    if not later:
        return table, unit, ()
    said = (
        f"{table.path}: {later} later turns of sessions arrive their delay after the turn before "
        "arrived, not after it was answered, which the file does not say: they come too early; "
        "prompts have the length that a row says, too short where it counts only what is new"
    )
    return replace(table, columns={**columns, arrival: times}), unit, (said,)
