"""Read traces and length files of every known format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import (
    ConfigError,
    Contents,
    RequestMix,
    RequestTable,
    WorkloadError,
)
from serving.arguments import checked
from serving.request_mix import LONGEST_DECODE
from workload._clock import Clock, check_unit, read_clock
from workload._columns import TextTable
from workload._contents import (
    abort_times,
    check_hash_block,
    hashed_contents,
    own_contents,
    refuse_hash_block,
)
from workload._formats import (
    OWN,
    TRACE_FORMATS,
    detect,
    format_named,
    format_of_columns,
    known_keys,
    parse_columns,
)
from workload._json_rows import is_json, read_json_rows
from workload._reading import TraceReading
from workload._sessions import Turns, waiting_turns, with_later_turns
from workload._table import Table, TraceFormat, placed
from workload._text import read_text

ZERO_TOKENS = "zero tokens"
ABOVE_L_FILTER = "decode length above L_filter"

Columns = dict[str, NDArray]


@checked(limit=">= 1", start=">= 0", rate_scale="> 0", L_filter=">= 1")
def read_trace(
    path: str | Path,
    format: str | None = None,
    limit: int | None = None,
    start: float | None = None,
    rate_scale: float | None = None,
    L_filter: int | None = None,
    *,
    trace_time_unit: str | None = None,
    hash_block_size: int | None = None,
    closed_loop: bool | None = None,
    columns: str | Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> TraceReading:
    """Read a trace, plain or gzip, of any format in :data:`TRACE_FORMATS`.

    Rows with zero tokens, then rows with D > ``L_filter``, are left out and counted; anything
    else that is wrong is refused. Times are in seconds (those of the project's own format in the
    unit of the instance) and count from the first request.

    Parameters
    ----------
    path
        The file; its name plays no part.
    format
        Name of the format; told by the content where it is None.
    limit
        Keep the first so many requests in arrival order.
    start : [time]
        Leave out what arrives less than this after time 0 of the trace. Time 0 is the first
        request; in the project's own format it is time 0 of the file, and the requests that are
        left count from ``start``.
    rate_scale
        Multiply the rate: times are divided by it.
    L_filter : [tokens]
        Leave out requests with a longer decode.
    trace_time_unit
        s | ms | us | ns: unit of arrival times that are numbers, where the file means another
        than the one told by its column's name, by its clock, or by its format.
    hash_block_size : [tokens]
        Tokens that each entry of ``hash_ids`` stands for; 512, 16 or another power of 2 that their
        number fits where it is None.
    closed_loop
        A turn of a session is sent when the turn before has ended and its delay is over, and not
        before its time in the file. The project's own format says so by its columns.
    columns
        ``"arrival=NAME,prompt=NAME,output=NAME"``, or a mapping: columns of a file of no known
        format.
    progress
        Called now and then with what is being done.

    Raises
    ------
    FileAccessError
        If the file cannot be opened.
    WorkloadError
        Naming file, line, data row (from 1), column and value of the first that is wrong.
    ConfigError
        If an option has a value that is not allowed.
    """
    cut = _Cut(limit, start, rate_scale, L_filter, hash_block_size)
    if format is not None and format not in TRACE_FORMATS:
        raise ConfigError("format", format, " | ".join(TRACE_FORMATS))
    check_unit(trace_time_unit)
    check_hash_block(hash_block_size)
    mapping = parse_columns(columns)
    if mapping is not None and (format is not None or "arrival" not in mapping):
        raise ConfigError("columns", columns, "arrival, prompt and output, and no format beside")
    path, say = Path(path), progress or (lambda text: None)
    table = _table(path, mapping, say)
    try:
        trace_format = _format(table, format, mapping)
        is_own = trace_format.name == OWN
        if is_own or closed_loop:
            table, unit, turns = waiting_turns(
                table, trace_format.arrival, trace_time_unit, is_own=is_own, asked=bool(closed_loop)
            )
            notes: tuple[str, ...] = ()
        else:
            table, unit, notes = with_later_turns(table, trace_format.arrival, trace_time_unit)
            turns = None
        say(f"reading {path}: {len(table):,} rows")
        if trace_format.at_once and rate_scale is not None:
            allowed = "not given for requests that are all there at time 0"
            raise ConfigError("rate_scale", rate_scale, allowed)
        clock = read_clock(table, trace_format, unit)
        reading = _reading(table, trace_format, clock, cut, turns)
    except WorkloadError as error:
        raise placed(error, table) from error
    return replace(reading, notes=(*clock.notes, *notes, *reading.notes))


@dataclass(frozen=True, slots=True)
class _Cut:
    """What part of a trace is asked for, and how it is read; see :func:`read_trace`."""

    limit: int | None
    start: float | None
    rate_scale: float | None
    L_filter: int | None
    hash_block_size: int | None


def _reading(
    table: Table, trace_format: TraceFormat, clock: Clock, cut: _Cut, turns: Turns | None
) -> TraceReading:
    """Return the requests of a part of a table, in order of arrival from time 0."""
    path = table.path
    columns = _length_columns(table, trace_format) | _optional_columns(table, trace_format)
    kept, dropped = _drop(columns, cut.L_filter)
    if not kept.any():
        raise WorkloadError(f"no request is left of {kept.size} rows ({_told(dropped)})", path=path)
    row = np.flatnonzero(kept)
    row = row[np.argsort(clock.time[row], kind="stable")]
    time = clock.time[row]
    own = trace_format.name == OWN
    if not own or cut.start is None:
        time = time - time[0]
    if cut.start is not None:
        late = time >= cut.start
        row, time = row[late], time[late] - cut.start
        if row.size == 0:
            raise WorkloadError(f"no request arrives from start = {cut.start:g} on", path=path)
        if not own:
            time = time - time[0]
    row, time = row[: cut.limit], time[: cut.limit] / (cut.rate_scale or 1.0)
    contents, notes = _contents(table, own, columns["prefill"], cut.hash_block_size)
    extra: dict[str, Any] = {
        name: columns[name][row] for name in trace_format.optional if name in columns
    }
    aborts = abort_times(table, clock) if own else None
    if aborts is not None:
        arrival, abort = clock.time[row], aborts[row]
        extra["abort_time"] = np.where(time == arrival, abort, time + (abort - arrival))
    if turns is not None:
        extra["session"] = turns.session[row]
        extra["think_time"] = turns.think[row] / (clock.ticks or 1.0)
    if contents is not None:
        extra["contents"] = contents.take(row)
    requests = RequestTable.validated(
        time, columns["prefill"][row], columns["decode"][row], path=path, **extra
    )
    return TraceReading(
        requests, trace_format.name, dropped, row + 1, path, clock.unit, notes, table.lines
    )


def _contents(
    table: Table, own: bool, prompt: NDArray[np.float64], hash_block_size: int | None
) -> tuple[Contents | None, tuple[str, ...]]:
    """Return what the requests of a whole file consist of, and what to say about it."""
    if own:
        refuse_hash_block(table, hash_block_size)
        return own_contents(table), ()
    return hashed_contents(table, prompt, hash_block_size)


@checked(L_filter=">= 1")
def read_lengths(
    path: str | Path,
    L_filter: int | None = None,
    *,
    columns: str | Mapping[str, str] | None = None,
) -> RequestMix:
    """Read only the (p, D) pairs of a trace or of a lengths-only file, plain or gzip.

    Parameters
    ----------
    path
        The file.
    L_filter : [tokens]
        Leave out requests with a longer decode.
    columns
        ``"prompt=NAME,output=NAME"``, or a mapping: columns of a file of no known format.

    Raises
    ------
    FileAccessError
        If the file cannot be opened.
    WorkloadError
        Naming file, line, data row (from 1), column and value of the first that is wrong.
    """
    path, mapping = Path(path), parse_columns(columns)
    table = _table(path, mapping, lambda text: None)
    try:
        trace_format = _format(table, None, mapping, lengths_suffice=True)
        found = _length_columns(table, trace_format)
    except WorkloadError as error:
        raise placed(error, table) from error
    kept, dropped = _drop(found, L_filter)
    if not kept.any():
        raise WorkloadError(f"no length is left of {kept.size} rows ({_told(dropped)})", path=path)
    return RequestMix.from_lengths(found["prefill"][kept], found["decode"][kept])


def _table(path: Path, mapping: Mapping[str, str] | None, say: Callable[[str], None]) -> Table:
    """Return the columns of a file, whatever it is written in."""
    say(f"reading {path}")
    text = read_text(path)
    say(f"reading {path}: {len(text) / 1e6:,.0f} MB")
    if is_json(text):
        return read_json_rows(text, path, known_keys(mapping), say)
    return TextTable.parse(text, path)


def _format(
    table: Table,
    format: str | None,
    mapping: Mapping[str, str] | None,
    *,
    lengths_suffice: bool = False,
) -> TraceFormat:
    """Return the format that was asked for, or the one that the columns have."""
    if mapping is not None:
        return format_of_columns(table, mapping)
    if format is not None:
        return format_named(table, format)
    return detect(table, lengths_suffice=lengths_suffice)


def _length_columns(table: Table, trace_format: TraceFormat) -> Columns:
    """Return prefill and decode [tokens] as checked numbers, every row of the file still there."""
    columns: Columns = {}
    for key, name in (("prefill", trace_format.prefill), ("decode", trace_format.decode)):
        columns[key] = values = table.numbers(name)
        whole = (values >= 0) & (values == np.floor(values))
        _refuse_where(~whole, values, name, "allowed: a whole number >= 0 (0 is dropped)", table)
        most = LONGEST_DECODE if key == "decode" else 2**53
        _refuse_where(values > most, values, name, f"allowed: <= {most}", table)
    return columns


def _optional_columns(table: Table, trace_format: TraceFormat) -> Columns:
    """Return further columns of a request table as checked numbers."""
    columns: Columns = {}
    for name in trace_format.optional:
        if name in table.columns:
            columns[name] = values = table.numbers(name)
            least = 1 if name.endswith("_length") else -np.inf
            _refuse_where(
                (values != np.floor(values)) | (values < least) | (np.abs(values) > 2**53),
                values,
                name,
                "allowed: a whole number" + (f" >= {least}" if least == 1 else ""),
                table,
            )
    return columns


def _drop(columns: Columns, L_filter: int | None) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows are kept and how many are not, by reason."""
    some = (columns["prefill"] > 0) & (columns["decode"] > 0)
    short = columns["decode"] <= (np.inf if L_filter is None else L_filter)
    dropped = {ZERO_TOKENS: int((~some).sum()), ABOVE_L_FILTER: int((some & ~short).sum())}
    return some & short, {reason: count for reason, count in dropped.items() if count}


def _told(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} with {reason}" for reason, count in dropped.items()) or "none"


def _refuse_where(
    wrong: NDArray[np.bool_], values: NDArray, column: str, reason: str, table: Table
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        value = values[row].item()
        raise WorkloadError(reason, path=table.path, row=row + 1, column=column, value=value)
