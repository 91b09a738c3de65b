"""Read which requests are turns of a session, and when later turns may be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError
from workload._clock import UNITS
from workload._json_rows import MISSING, JsonTable
from workload._table import Table

SESSION = "session_id"
"""Key of the conversation that a request is a turn of."""

DELAYS = ("delay", "delay_ms")
"""Keys that a later turn has in place of an arrival, the first in the unit of the arrivals."""


THINK = "think_time"
"""Column of the project's own format: from the end of the turn before to a later turn."""

CLOSED = "--closed-loop"

TURN_KEYS = (SESSION, THINK, *DELAYS)


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Who waits for whom.

    Parameters
    ----------
    session : shape (R,)
        Number of the session of each row; -1 for none.
    think : shape (R,)
        From the end of the turn before, as the numbers of the file count time.
    """

    session: NDArray[np.int64]
    think: NDArray[np.float64]


def _own_turns(table: Table) -> Turns | None:
    """Return the turns that a file of the project's own format states; None for none.

    Raises
    ------
    WorkloadError
        Naming the first time to think that is none, or that belongs to no session.
    """
    if SESSION not in table.columns and THINK not in table.columns:
        return None
    names = table.texts(SESSION) if SESSION in table.columns else [""] * len(table)
    texts = table.texts(THINK) if THINK in table.columns else [""] * len(table)
    think = np.zeros(len(table))
    for row, (name, text) in enumerate(zip(names, texts, strict=True)):
        if not text:
            continue
        value = _number(text)
        if not (0 <= value < 1e300) or (value > 0 and not name):
            allowed = f"a finite number >= 0, and nothing where {SESSION} is empty"
            raise WorkloadError(
                f"allowed: {allowed}", path=table.path, row=row + 1, column=THINK, value=text
            )
        think[row] = value
    return _turns(names, think) if any(names) else None


def _number(text: str) -> float:
    try:
        return float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan


def _turns(names: Sequence[str], think: NDArray[np.float64]) -> Turns:
    number: dict[str, int] = {"": -1}
    for name in names:
        number.setdefault(name, len(number) - 1)
    return Turns(np.array([number[name] for name in names], np.int64), think)


def waiting_turns(
    table: Table, arrival: str, unit: str | None, *, is_own: bool, asked: bool
) -> tuple[Table, str | None, Turns | None]:
    """Return a table whose later turns may be sent from the start of their session on.

    Also the unit of the arrivals, where someone says it, and who waits for whom: a later turn is
    sent its delay after the answer to the turn before.

    Parameters
    ----------
    is_own
        Whether the file is of the project's own format, which has columns for it.
    asked
        Whether the user wants turns to wait.

    Raises
    ------
    WorkloadError
        If the file has no sessions though it should, the first turn of one has no arrival time, or
        a delay is none.
    """
    turns = _own_turns(table) if is_own else None
    if asked and turns is None and (is_own or SESSION not in table.columns):
        raise WorkloadError(
            f"{CLOSED}: the file does not say which requests are turns of a session",
            path=table.path, column=SESSION,
        )  # fmt: skip
    if is_own:
        return table, unit, turns
    names, think = table.texts(SESSION), np.zeros(len(table))
    if not isinstance(table, JsonTable) or isinstance(table.columns[arrival], np.ndarray):
        return table, unit, _turns(names, think)
    times, delays, ticks, unit = _times_and_delays(table, arrival, unit)
    first: dict[str, float] = {}
    for row, (time, name, delay) in enumerate(zip(times, names, delays, strict=True)):
        if time is MISSING and name:
            _need_first(table, arrival, row, name, first)
            times[row] = first[name]
            think[row] = delay * ticks
        if type(times[row]) in (int, float):
            first[name] = times[row]
    table = replace(table, columns={**table.columns, arrival: times})
    return table, unit, _turns(names, think)


def _times_and_delays(
    table: JsonTable, arrival: str, unit: str | None
) -> tuple[list, list[float], float, str | None]:
    """Return arrivals, delays, what a unit of a delay is in arrivals, and the unit of those.

    Raises
    ------
    WorkloadError
        Naming the first delay of a turn without an arrival that is none.
    """
    times = list(table.columns[arrival])
    key = next((key for key in DELAYS if key in table.columns), DELAYS[0])
    delays = list(table.columns.get(key, [MISSING] * len(table)))
    for row, (time, delay) in enumerate(zip(times, delays, strict=True)):
        if time is not MISSING or delay is MISSING:
            delays[row] = 0 if time is MISSING or delay is MISSING else delay
            continue
        if type(delay) not in (int, float) or not 0 <= delay < 1e300:
            raise WorkloadError(
                "allowed: a finite number >= 0",
                path=table.path, row=row + 1, column=key, value=delay,
            )  # fmt: skip
    ticks = 1.0
    if key != DELAYS[0]:
        unit = unit or "ms"
        ticks = UNITS[unit] / UNITS["ms"]
    return times, delays, ticks, unit


def _need_first(table: Table, arrival: str, row: int, name: str, known: dict[str, float]) -> None:
    if name not in known:
        raise WorkloadError(
            f"is missing: it is the first turn of session {name[:40]}",
            path=table.path, row=row + 1, column=arrival,
        )  # fmt: skip


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
    columns = table.columns
    if isinstance(columns[arrival], np.ndarray):  # every row has a number
        return table, unit, ()
    times, delays, ticks, unit = _times_and_delays(table, arrival, unit)
    last: dict[str, float] = {}
    later = 0
    for row, (time, session, delay) in enumerate(zip(times, columns[SESSION], delays, strict=True)):
        name = repr(session)
        if time is MISSING and session is not MISSING:
            _need_first(table, arrival, row, name, last)
            times[row] = last[name] + delay * ticks
            later += 1
        if type(times[row]) in (int, float):
            last[name] = times[row]
    if not later:
        return table, unit, ()
    said = (
        f"{table.path}: {later} later turns of sessions arrive their delay after the turn before "
        "arrived, not after it was answered, which the file does not say: they come too early "
        f"({CLOSED} lets an engine of vLLM send them in time); "
        "prompts have the length that a row says, too short where it counts only what is new"
    )
    return replace(table, columns={**columns, arrival: times}), unit, (said,)
