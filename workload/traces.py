"""Read traces and length files of every known format, and write the project's own format."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, Instance, RequestMix, RequestTable, WorkloadError, kind_of
from serving.files import atomic_write
from workload._columns import TextTable, read_text
from workload._formats import (
    FORMATS,
    MOONCAKE,
    TRACE_FORMATS,
    Columns,
    TraceFormat,
    detect,
    is_json_lines,
    read_json_lines,
    require,
)

ZERO_TOKENS = "zero tokens"
ABOVE_L_FILTER = "decode length above L_filter"


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
    """

    requests: RequestTable
    format: str
    dropped: Mapping[str, int]
    row: NDArray[np.int64]
    path: Path

    def check_fits(self, instance: Instance) -> None:
        """Refuse a request that can never finish on an instance.

        Raises
        ------
        WorkloadError
            Naming the first row of the file whose prompt and answer together are too long.
        """
        most = kind_of(instance).largest_request(instance)
        need = self.requests.prefill_length + self.requests.decode_length
        at = np.flatnonzero(need > most.value)
        if at.size:
            first = at[np.argmin(self.row[at])]
            raise WorkloadError(
                f"can never finish; allowed: <= {most.words}",
                path=self.path,
                row=int(self.row[first]),
                column="prefill_length + decode_length",
                value=int(need[first]),
            )


def read_trace(
    path: str | Path,
    format: str | None = None,
    limit: int | None = None,
    start: float | None = None,
    rate_scale: float | None = None,
    L_filter: int | None = None,
) -> TraceReading:
    """Read a trace, plain or gzip, of any format in :data:`TRACE_FORMATS`.

    Rows with zero tokens, then rows with D > ``L_filter``, are left out and counted; anything
    else that is wrong is refused. Times come in seconds from the first request, except that the
    project's own format, whose unit is the instance's, keeps its times as they are.

    Parameters
    ----------
    path
        The file; its name plays no part.
    format
        Name of the format; told by the content where it is None.
    limit
        Keep the first so many requests in arrival order.
    start : [time]
        Leave out what arrives less than this after time 0 of the trace, and count time from
        there.
    rate_scale
        Multiply the rate: times are divided by it.
    L_filter : [tokens]
        Leave out requests with a longer decode.

    Raises
    ------
    FileAccessError
        If the file cannot be opened.
    WorkloadError
        Naming file, data row (from 1), column and value of the first that is wrong.
    ConfigError
        If an option has a value that is not allowed.
    """
    _check_options(format, limit, start, rate_scale, L_filter)
    path = Path(path)
    trace_format, columns = _read_columns(path, format)
    if not trace_format.arrival:
        raise WorkloadError(
            "holds lengths only, no arrival times; use it as a length source", path=path
        )
    arrival = columns.pop("arrival")
    _refuse_where(arrival < 0, arrival, trace_format.arrival, "allowed: a time >= 0", path)
    kept, dropped = _drop(columns, L_filter)
    if not kept.any():
        raise WorkloadError(f"no request is left of {kept.size} rows ({_told(dropped)})", path=path)
    row = np.flatnonzero(kept)
    row = row[np.argsort(arrival[row], kind="stable")]
    time = arrival[row]
    if not trace_format.keeps_time_zero:
        time = time - time[0]
    if start is not None:
        late = time >= start
        row, time = row[late], time[late] - start
        if row.size == 0:
            raise WorkloadError(f"no request arrives from start = {start:g} on", path=path)
        if not trace_format.keeps_time_zero:
            time = time - time[0]
    row, time = row[:limit], time[:limit]
    table = RequestTable.validated(
        time / (rate_scale or 1.0),
        columns["prefill"][row],
        columns["decode"][row],
        priority=columns["priority"][row] if "priority" in columns else None,
        predicted_decode_length=(
            columns["predicted_decode_length"][row]
            if "predicted_decode_length" in columns
            else None
        ),
        path=path,
    )
    return TraceReading(table, trace_format.name, dropped, row + 1, path)


def read_lengths(path: str | Path, L_filter: int | None = None) -> RequestMix:
    """Read only the (p, D) pairs of a trace or of a lengths-only file, plain or gzip.

    Raises
    ------
    FileAccessError
        If the file cannot be opened.
    WorkloadError
        Naming file, data row (from 1), column and value of the first that is wrong.
    """
    path = Path(path)
    _, columns = _read_columns(path, None)
    kept, dropped = _drop(columns, L_filter)
    if not kept.any():
        raise WorkloadError(f"no length is left of {kept.size} rows ({_told(dropped)})", path=path)
    return RequestMix.from_lengths(columns["prefill"][kept], columns["decode"][kept])


def write_requests(requests: RequestTable, path: str | Path) -> None:
    """Write a table in the project's own CSV format, whole or not at all.

    Times are written with as many digits as it takes to read back the very same numbers.
    ``priority`` and ``predicted_decode_length`` are written where they say something. A name
    ending in .gz is compressed. Equal tables give equal bytes.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    columns: dict[str, list] = {
        "arrival_time": requests.arrival_time.tolist(),
        "prefill_length": requests.prefill_length.tolist(),
        "decode_length": requests.decode_length.tolist(),
    }
    if requests.priority.any():
        columns["priority"] = requests.priority.tolist()
    if (requests.predicted_decode_length != requests.decode_length).any():
        columns["predicted_decode_length"] = requests.predicted_decode_length.tolist()
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    text.writelines(
        ",".join(map(repr, values)) + "\n" for values in zip(*columns.values(), strict=True)
    )
    data = text.getvalue().encode()
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)


def _check_options(
    format: str | None,
    limit: int | None,
    start: float | None,
    rate_scale: float | None,
    L_filter: int | None,
) -> None:
    if format is not None and format not in TRACE_FORMATS:
        raise ConfigError("format", format, " | ".join(TRACE_FORMATS))
    for key, value in (("limit", limit), ("L_filter", L_filter)):
        if value is not None and (value != int(value) or value < 1):
            raise ConfigError(key, value, "a whole number >= 1")
    if start is not None and not 0 <= start < np.inf:
        raise ConfigError("start", start, "a finite number >= 0")
    if rate_scale is not None and not 0 < rate_scale < np.inf:
        raise ConfigError("rate_scale", rate_scale, "a finite number > 0")


def _read_columns(path: Path, format: str | None) -> tuple[TraceFormat, Columns]:
    """Return the format and its columns as checked numbers, every row of the file still there."""
    text = read_text(path)
    json_lines = is_json_lines(text) if format is None else format == MOONCAKE.name
    if json_lines:
        trace_format, columns = MOONCAKE, read_json_lines(text, path)
    else:
        table = TextTable.parse(text, path)
        if format is None:
            trace_format = detect(table)
        else:
            trace_format = next(each for each in FORMATS if each.name == format)
            require(table, trace_format)
        columns = _table_columns(table, trace_format)
    for key, name in (("prefill", trace_format.prefill), ("decode", trace_format.decode)):
        _refuse_where(
            (columns[key] < 0) | (columns[key] != np.floor(columns[key])),
            columns[key],
            name,
            "allowed: a whole number >= 0 (0 is dropped)",
            path,
        )
    return trace_format, columns


def _table_columns(table: TextTable, trace_format: TraceFormat) -> Columns:
    columns: Columns = {}
    if trace_format.arrival:
        columns["arrival"] = trace_format.read_arrival(table, trace_format.arrival)
    columns["prefill"] = table.numbers(trace_format.prefill)
    columns["decode"] = table.numbers(trace_format.decode)
    for name in trace_format.optional:
        if name in table.columns:
            columns[name] = values = table.numbers(name)
            least = 1 if name.endswith("_length") else -np.inf
            _refuse_where(
                (values != np.floor(values)) | (values < least) | (np.abs(values) > 2**53),
                values,
                name,
                "allowed: a whole number" + (f" >= {least}" if least == 1 else ""),
                table.path,
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
    wrong: NDArray[np.bool_], values: NDArray, column: str, reason: str, path: Path
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(reason, path=path, row=row + 1, column=column, value=values[row].item())
