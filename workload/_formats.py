"""Declare each trace format: how it is recognised and what its columns mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError
from workload._columns import TextTable

Columns = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format of tables with a header.

    Parameters
    ----------
    name
        How users name it.
    arrival, prefill, decode
        Header names; ``arrival`` is empty where the file holds lengths only.
    read_arrival
        From the table and the column's name to seconds, shape (R,).
    keeps_time_zero
        Arrival times are taken as they are instead of being shifted to start at 0.
    optional
        Header name of further columns by the name they have in a request table.
    marker
        Another column that tells the format from one it otherwise looks like.
    """

    name: str
    arrival: str
    prefill: str
    decode: str
    read_arrival: Callable[[TextTable, str], NDArray[np.float64]] = TextTable.numbers
    keeps_time_zero: bool = False
    optional: tuple[str, ...] = ()
    marker: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """Header names without which a file is not of this format."""
        return tuple(
            each for each in (self.arrival, self.prefill, self.decode, self.marker) if each
        )


def _nanoseconds(table: TextTable, name: str) -> NDArray[np.float64]:
    clock = table.integers_or_numbers(name)
    if clock.dtype == np.int64 and clock.min() > 2**53:
        clock = clock - clock.min()
    return clock / 1e9


FORMATS = (
    TraceFormat(
        "own",
        "arrival_time",
        "prefill_length",
        "decode_length",
        keeps_time_zero=True,
        optional=("priority", "predicted_decode_length"),
    ),
    TraceFormat("sharegpt", "arrival_time_ns", "input_toks", "output_toks", _nanoseconds),
    TraceFormat("burstgpt", "Timestamp", "Request tokens", "Response tokens"),
    TraceFormat("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", TextTable.seconds_of_day),
    TraceFormat(
        "mooncake_tidy",
        "arrival_s",
        "prompt_tokens",
        "output_tokens",
        marker="cached_prefix_tokens_inf",
    ),
    TraceFormat("azure_tidy", "arrival_s", "prompt_tokens", "output_tokens"),
    TraceFormat("lengths", "", "prompt_tokens", "output_tokens"),
)
MOONCAKE = TraceFormat("mooncake", "timestamp", "input_length", "output_length")
"""One JSON object a line; timestamp in ms; hash_ids name the prefix blocks."""

TRACE_FORMATS = tuple(each.name for each in (*FORMATS, MOONCAKE) if each.arrival)
"""Names that a trace's format may have."""


def detect(table: TextTable) -> TraceFormat:
    """Return the format of a table by its header.

    Raises
    ------
    WorkloadError
        If none fits; names the column that is missing from the format it is closest to.
    """
    for each in FORMATS:
        if all(name in table.columns for name in each.required):
            return each
    closest = max(FORMATS, key=lambda each: sum(name in table.columns for name in each.required))
    present = [name for name in closest.required if name in table.columns]
    if present:
        missing = next(name for name in closest.required if name not in table.columns)
        raise WorkloadError(
            f"is missing; the header looks like the {closest.name} format, which has "
            + ", ".join(closest.required),
            path=table.path,
            column=missing,
        )
    known = "; ".join(f"{each.name}: {', '.join(each.required)}" for each in FORMATS)
    header = ", ".join(list(table.columns)[:6])[:120]
    raise WorkloadError(
        f"not a trace: the columns are {header!r}. Known formats: {known}; "
        f"{MOONCAKE.name}: JSON lines with {', '.join(MOONCAKE.required)}",
        path=table.path,
    )


def require(table: TextTable, trace_format: TraceFormat) -> None:
    """Refuse a table without the columns of a format that was asked for by name."""
    for name in trace_format.required:
        if name not in table.columns:
            raise WorkloadError(
                f"is missing; the {trace_format.name} format has "
                + ", ".join(trace_format.required),
                path=table.path,
                column=name,
            )


def is_json_lines(text: str) -> bool:
    """Return whether the first thing in a file is a JSON object."""
    return text.lstrip().startswith("{")


def read_json_lines(text: str, path: Path) -> Columns:
    """Return arrival [s], prefill and decode [tokens] of Mooncake JSON lines, shape (R,) each.

    Raises
    ------
    WorkloadError
        Naming row, column and value of the first that is wrong.
    """
    lines = text.rstrip().splitlines()
    keys = MOONCAKE.required
    rows = [_json_row(line, row, keys, path) for row, line in enumerate(lines, start=1)]
    arrival, prefill, decode = np.array(rows, dtype=np.float64).T
    return {"arrival": arrival / 1e3, "prefill": prefill, "decode": decode}


def _json_row(line: str, row: int, keys: Sequence[str], path: Path) -> list[float]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise WorkloadError(f"not JSON: {error}", path=path, row=row) from error
    if not isinstance(entry, dict):
        raise WorkloadError("not a JSON object", path=path, row=row)
    for key in keys:
        if key not in entry:
            raise WorkloadError("is missing", path=path, row=row, column=key)
        value = entry[key]
        # abs(value) < inf is False for NaN and infinities, and exact for huge integers.
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise WorkloadError(
                "allowed: a finite number", path=path, row=row, column=key, value=value
            )
    return [entry[key] for key in keys]
