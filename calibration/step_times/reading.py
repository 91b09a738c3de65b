"""A step-time file has one row per measured batch; the reader checks each column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import refuse_first, refuse_implausible, refuse_no_duration
from calibration.server_runs.iterations import is_iteration_log
from calibration.step_times.other_files import rows_of_forward, rows_of_log
from calibration.step_times.rows import StepRows
from serving import WorkloadError
from workload import TextTable, placed, read_text

TIMES = {
    f"{name}_{unit}": size
    for name in ("step_time", "latency")
    for unit, size in (("ms", 1e-3), ("s", 1.0), ("us", 1e-6))
}
"""Seconds in the unit of each column that can hold the time of a step; the first is taken."""

OTHER_NAMES = {
    "decode_tokens": ("num_decode_tokens",),
    "prefill_tokens": ("num_context_tokens", "num_prefill_tokens"),
}
"""What other projects (aiconfigurator, Vidur) call a column, where a file lacks its own name."""

FASTEST, SLOWEST = 3e-4, 5.0
"""Bounds [s] of the median step time of a file whose unit is believed."""

LONGEST_GAP = 10
"""Largest number of steps between two samples of a log whose mean time stands for one batch."""

GROUP = ("hardware", "model", "tp")
"""Columns that tell the measurements of one machine from those of another."""


def read_step_times(
    path: str | Path,
    *,
    hardware: str | None = None,
    model: str | None = None,
    tp: int | None = None,
    longest_gap: int = LONGEST_GAP,
    kv_capacity: int | None = None,
    block_size: int | None = None,
) -> StepRows:
    """Read a step-time file, plain or gzip.

    That is a CSV, the log of a server with a line per iteration, or a result of ``vllm bench
    forward``. The rest of this page is about a CSV.

    One time column is needed (``step_time_ms``, ``step_time_s``, ``step_time_us``, or
    ``latency_`` with a unit) and the decoding requests (``decode_tokens``; without it
    ``batch_size``). ``prefill_tokens``, ``kv_tokens`` (all KV that the batch reads),
    ``prefill_kv_tokens`` (what of it the prefill chunks read), ``gap_steps``, ``hardware``,
    ``model`` and ``tp`` are optional. :data:`OTHER_NAMES` are understood too.

    Parameters
    ----------
    path
        The file.
    hardware, model, tp
        Keep the rows of this machine; a file of several machines needs enough of them. Where
        the file has no such column, this is what the machine is called.
    longest_gap
        Rows with more ``gap_steps`` are dropped.
    kv_capacity, block_size : [tokens]
        Of the server, for a log of iterations, whose KV is the share in use.

    Raises
    ------
    FileAccessError
        If the file cannot be opened.
    WorkloadError
        Naming file, row, column and value of what cannot be used.
    """
    path = Path(path)
    text = read_text(path)
    machine = {"hardware": hardware, "model": model, "tp": tp}
    if block_size is not None and not is_iteration_log(text):
        raise WorkloadError("--block-size is for a log of iterations; this is none", path=path)
    named = {name: str(value) for name, value in machine.items() if value is not None}
    if text.lstrip()[:1] in ("[", "{"):
        return rows_of_forward(text, path, named)
    if is_iteration_log(text):
        return rows_of_log(text, path, named, kv_capacity=kv_capacity, block_size=block_size)
    table = TextTable.parse(text, path)
    try:
        return _rows(table, machine, longest_gap)
    except WorkloadError as error:
        raise placed(error, table) from error


def _rows(table: TextTable, machine: Mapping[str, Any], longest_gap: int) -> StepRows:
    """Return the rows of a table that are of one machine and can be used."""
    columns, path = table.columns, table.path
    unit = next((name for name in TIMES if name in columns), None)
    if unit is None:
        raise WorkloadError(f"no column of step times: {' | '.join(TIMES)}", path=path)
    requests_column = _called(columns, "decode_tokens")
    if requests_column not in columns:
        requests_column = "batch_size"
    if requests_column not in columns:
        raise WorkloadError("no column 'decode_tokens' (or 'batch_size')", path=path)
    time = table.numbers(unit)
    seconds = time * TIMES[unit]
    refuse_no_duration(seconds, column=unit, values=time, path=path)
    values = {requests_column: _counts(table, requests_column)}
    for name in ("prefill_tokens", "kv_tokens", "prefill_kv_tokens"):
        called = _called(columns, name)
        values[name] = _counts(table, called) if called in columns else np.zeros(time.size)
    requests = values[requests_column]
    if requests_column == "batch_size":  # requests of the batch, prefilling ones among them
        requests = np.where(values["prefill_tokens"] > 0, np.maximum(requests - 1, 0), requests)
    prefill_kv = values["prefill_kv_tokens"]
    if "prefill_kv_tokens" not in columns:
        prefill_kv = np.where(requests > 0, 0.0, values["kv_tokens"])
    context = values["kv_tokens"] - prefill_kv
    refuse_first(
        context < 0, "is more than kv_tokens",
        column="prefill_kv_tokens", values=prefill_kv, path=path,
    )  # fmt: skip
    kept, dropped = _kept(table, machine, path)
    if "gap_steps" in columns:
        near = table.numbers("gap_steps") <= longest_gap
        dropped[f"gap_steps > {longest_gap}"] = int((kept & ~near).sum())
        kept &= near
    idle = (requests == 0) & (values["prefill_tokens"] == 0)
    dropped["empty batches"] = int((kept & idle).sum())
    kept &= ~idle
    if not kept.any():
        raise WorkloadError("no rows are left to fit", path=path)
    rows = StepRows(
        prefill_tokens=values["prefill_tokens"],
        requests=requests,
        context=context,
        prefill_context=prefill_kv,
        time=seconds,
        row=np.arange(1, time.size + 1),
        has_context="kv_tokens" in columns,
        about={"file": str(path)} | _names(table, machine, kept),
        dropped={reason: count for reason, count in dropped.items() if count},
    )[kept]
    _check_unit(rows, unit, path)
    return rows


def _called(columns: Mapping[str, Any], name: str) -> str:
    """Return what a file calls a column: the name itself, or one of other projects."""
    return next((each for each in (name, *OTHER_NAMES.get(name, ())) if each in columns), name)


def _counts(table: TextTable, name: str) -> NDArray[np.float64]:
    """Return a column of plausible counts."""
    values = table.numbers(name)
    refuse_implausible({name: values}, path=table.path)
    return values


def _kept(
    table: TextTable, wanted: Mapping[str, Any], path: Path
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows are of the machine wanted; refuse a mixture of machines."""
    present = {name: np.array(table.columns[name]) for name in GROUP if name in table.columns}
    size = len(next(iter(table.columns.values())))
    kept = np.ones(size, bool)
    for name, value in wanted.items():
        if value is None or name not in present:  # a name for what the file does not name
            continue
        match = np.char.lower(present[name]) == str(value).lower()
        if not match.any():
            known = ", ".join(sorted(set(present[name].tolist())))
            raise WorkloadError(f"no rows of {name} {value}; the file has {known}", path=path)
        kept &= match
    machines = sorted({each for each in zip(*(x[kept] for x in present.values()), strict=True)})
    if present and not machines:
        raise WorkloadError("no rows of this combination of hardware, model and tp", path=path)
    if len(machines) > 1:
        known = "; ".join(" ".join(map(str, each)) for each in machines[:6])
        raise WorkloadError(
            f"rows of {len(machines)} machines ({known}); choose one by hardware, model and tp",
            path=path,
        )
    return kept, {"other machines": int(size - kept.sum())}


def _names(table: TextTable, machine: Mapping[str, Any], kept: NDArray[np.bool_]) -> dict[str, str]:
    """Return the names of the machine of the rows that are kept, and those the user gives it."""
    first = int(np.argmax(kept))
    given = {name: str(machine[name]) for name in GROUP if machine[name] is not None}
    return given | {name: table.columns[name][first] for name in GROUP if name in table.columns}


def _check_unit(rows: StepRows, unit: str, path: Path) -> None:
    """Refuse times that no model on any card has: the file uses another unit."""
    middle = float(np.median(rows.time))
    if FASTEST <= middle <= SLOWEST:
        return
    at = int(np.argmin(np.abs(rows.time - middle)))
    likely = [
        name for name, size in TIMES.items() if FASTEST <= middle / TIMES[unit] * size <= SLOWEST
    ]
    hint = f"; is the column in {likely[0].rpartition('_')[2]}?" if likely else ""
    raise WorkloadError(
        f"half of the steps take less than {middle:.3g} s, which is not plausible{hint}"
        if middle < FASTEST
        else f"half of the steps take more than {middle:.3g} s, which is not plausible{hint}",
        path=path, row=int(rows.row[at]), column=unit, value=float(rows.time[at] / TIMES[unit]),
    )  # fmt: skip
