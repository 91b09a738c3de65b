"""Read the arrival times of a trace: numbers in some unit, or dates."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, WorkloadError
from workload._calendar import looks_like_a_date
from workload._table import Table, TraceFormat

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Ticks per second of each unit that arrival times may have."""

EPOCH = (1.2e9, 2.3e9)
"""Seconds from 1970 to 2008 and to 2042: a trace whose clock starts here counts from 1970."""

FASTEST = 100.0
"""Mean rate [requests/s] up to which the unit that a format usually has is believed."""

SLOWEST = 0.001
"""Mean rate [requests/s] from which the unit that a format usually has is believed."""

ENOUGH = 10
"""Fewer requests say nothing about a rate."""

OPTION = "--trace-time-unit"


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """Arrival times as read.

    Parameters
    ----------
    time : shape (R,)
        Times in the order of the file, in seconds, or in the unit of the instance.
    unit
        ``"s"``; empty where the unit is that of the instance.
    notes
        What was assumed, in sentences that a reader tells its user.
    ticks, origin
        A number x of the file is the time ``(x - origin) / ticks``; None where it holds dates.
    """

    time: NDArray[np.float64]
    unit: str
    notes: tuple[str, ...] = ()
    ticks: float | None = None
    origin: float = 0.0


def unit_in_name(name: str) -> str | None:
    """Return the unit that a column's name ends with, such as ``arrival_ms``; None without one."""
    match = re.fullmatch(r".+[_ (\[]+(s|sec|seconds|ms|us|ns)[)\]]?", name.strip())
    return {"sec": "s", "seconds": "s"}.get(match[1], match[1]) if match else None


def check_unit(unit: str | None) -> None:
    """Refuse a unit that is none.

    Raises
    ------
    ConfigError
        Saying what is allowed.
    """
    if unit is not None and unit not in UNITS:
        raise ConfigError("trace_time_unit", unit, " | ".join(UNITS))


def read_clock(table: Table, trace_format: TraceFormat, asked: str | None) -> Clock:
    """Return the arrival times of a trace.

    Dates count from midnight of the first day. Numbers are in the unit that the user says, that
    the column's name says, that a clock counting from 1970 shows, or that the format usually has,
    in this order. In the last two cases another unit may be meant: a unit other than the usual is
    noted, and where two are as likely the file is refused.

    Parameters
    ----------
    table, trace_format
        The file.
    asked
        Unit that the user says, a key of :data:`UNITS`.

    Raises
    ------
    WorkloadError
        Naming the first time that is wrong, or saying that the unit cannot be told.
    """
    name, path = trace_format.arrival, table.path
    if trace_format.at_once:
        return _at_once(table, asked)
    if looks_like_a_date(table.first(name)):
        if asked is not None:
            raise WorkloadError(
                f"holds dates, which have no unit; leave out {OPTION}", path=path, column=name
            )
        return Clock(table.seconds_of_day(name), "s")
    raw = table.integers_or_numbers(name)
    wrong = raw < 0
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(
            "allowed: a time >= 0", path=path, row=row + 1, column=name, value=raw[row].item()
        )
    unit, notes = _unit_of(raw, table, trace_format) if asked is None else (asked, ())
    if not unit:
        return Clock(raw.astype(np.float64), "", ticks=1.0)
    origin = 0.0
    if raw.dtype == np.int64 and raw.min() > 2**53:
        origin = float(raw.min())
        raw = raw - raw.min()  # a float64 does not hold every whole number above it
    return Clock(raw / UNITS[unit], "s", notes, UNITS[unit], origin)


def _at_once(table: Table, asked: str | None) -> Clock:
    """Return the clock of requests that are all there at time 0."""
    if asked is not None:
        raise WorkloadError(f"has no arrival times; leave out {OPTION}", path=table.path)
    said = f"{table.path}: there are no arrival times: all requests are there at time 0"
    return Clock(np.zeros(len(table)), "s", (said,), ticks=1.0)


def _unit_of(raw: NDArray, table: Table, trace_format: TraceFormat) -> tuple[str, tuple[str, ...]]:
    """Return the unit that nobody stated, and what to say about it."""
    usual, name = trace_format.unit, trace_format.arrival
    if trace_format.unit_is_certain:
        return usual, ()
    first = float(raw.min())
    for unit, ticks in UNITS.items():
        if EPOCH[0] * ticks <= first <= EPOCH[1] * ticks:
            if unit == usual:
                return usual, ()
            said = f"{name} starts at {first:.6g}, which counts {_WORDS[unit]} from 1970"
            return unit, (f"{table.path}: {said}: read as {unit}; {OPTION} says another unit",)
    if not usual:
        return "", ()
    return _plausible(raw, table, trace_format)


_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _plausible(
    raw: NDArray, table: Table, trace_format: TraceFormat
) -> tuple[str, tuple[str, ...]]:
    """Return the usual unit, or seconds where times in the usual one would come too fast."""
    usual, name, path = trace_format.unit, trace_format.arrival, table.path
    span = float(raw.max() - raw.min())
    enough = raw.size >= ENOUGH and span > 0
    per_tick = (raw.size - 1) / span if enough else 0.0
    rate = per_tick * UNITS[usual]
    fractions = bool((raw != np.floor(raw)).any())
    if usual != "s" and enough and rate > FASTEST:
        if not fractions:
            raise WorkloadError(
                f"in {usual}, usual for the {trace_format.name} format, these are {rate:.4g} "
                f"requests/s, in s {per_tick:.4g}: say which by {OPTION} {usual} or {OPTION} s",
                path=path, column=name,
            )  # fmt: skip
        return "s", (
            f"{path}: {name} is read in s, {per_tick:.4g} requests/s: in {usual}, usual for the "
            f"{trace_format.name} format, it would be {rate:.4g} requests/s; {OPTION} decides",
        )
    if usual != "s" and fractions:
        said = f"{path}: {name} has fractions; it is read in {usual}, usual for the"
        return usual, (f"{said} {trace_format.name} format; {OPTION} says another unit",)
    if enough and rate < SLOWEST:
        said = f"{path}: {name} is read in {usual}: one request in {1 / rate:.4g} s"
        return usual, (f"{said}; {OPTION} says another unit",)
    return usual, ()
