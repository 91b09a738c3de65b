"""Describe a result for the user, and write and read the tables of commands."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import (
    PER_REQUEST_LATENCIES,
    FluidServeError,
    ServingMetrics,
    Trajectory,
    UnsupportedError,
    check_defined,
)
from serving.csv_text import csv_pieces
from serving.files import atomic_write

if TYPE_CHECKING:
    from fluidserve.inputs import Inputs


MOST_TIMES = 1 << 18
"""Times that the file of a trajectory holds at most: some 45 MB."""


def parse_goodput(
    given: tuple[str, ...], time_unit: str, longest_decode: int
) -> dict[str, float] | None:
    """Return thresholds in the run's time unit from texts such as ``ttft:2`` or ``ttft_ms:2000``.

    Parameters
    ----------
    given
        The texts.
    time_unit
        Of the run.
    longest_decode : [tokens]
        Of the requests, which may have no TPOT.

    Raises
    ------
    FluidServeError
        Naming the text and what is allowed.
    """
    per_ms = {"s": 1e-3, "ms": 1.0}
    thresholds = {}
    for text in given:
        name, _, value = text.replace("<", ":").partition(":")
        latency, explicit = name.removesuffix("_ms"), name.endswith("_ms")
        try:
            threshold = float(value)
        except ValueError:
            threshold = float("nan")
        if latency not in PER_REQUEST_LATENCIES or not 0 < threshold < float("inf"):
            known = ", ".join(PER_REQUEST_LATENCIES)
            raise FluidServeError(
                f"--goodput {text!r} is not allowed; allowed: LATENCY:THRESHOLD with a latency "
                f"that a request has one of ({known}) and a finite threshold > 0"
            )
        if explicit and time_unit not in per_ms:
            raise FluidServeError(f"--goodput {text!r}: a run without a time unit has no ms")
        try:
            check_defined([latency], longest_decode)
        except UnsupportedError as undefined:
            raise FluidServeError(f"--goodput {text!r}: {undefined}") from None
        thresholds[latency] = threshold * (per_ms[time_unit] if explicit else 1.0)
    return thresholds or None


def as_typed(given: tuple[str, ...]) -> dict[str, float]:
    """Return thresholds under the names and in the units in which they were given."""
    parts = (text.replace("<", ":").partition(":") for text in given)
    return {name: float(value) for name, _, value in parts}


def summary_of(
    inputs: Inputs, metrics: ServingMetrics, warnings: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Return what ``summary.json`` holds: workload, instance, metrics and whatever is added."""
    from fluidserve.config import flat

    return {
        **more,
        "seed": inputs.config.seed,
        "instance": flat(inputs.instance),
        "workload": inputs.describe(),
        "metrics": metrics.to_json(inputs.instance.time_unit),
        "warnings": list(warnings),
    }


def largest(outputs: Mapping[str, Any]) -> dict[str, float]:
    """Return the largest value of each output that caveats ask for, by name."""
    asked = {name: outputs[name] for name in ("batch_size", "swapped") if name in outputs}
    return {name: float(np.max(values)) for name, values in asked.items() if len(values)}


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write arrays of one length as CSV with a header, in full precision."""
    floats = {name: np.asarray(values, float) for name, values in columns.items()}
    with atomic_write(path, "wb") as file:
        file.writelines(csv_pieces(floats, nan="nan"))


def write_rows(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of numbers and words as CSV with a header; what is not finite stays empty."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(
                ["" if isinstance(x, float) and not math.isfinite(x) else x for x in row]
            )


def thin_trajectory(trajectory: Trajectory) -> tuple[Trajectory, list[str]]:
    """Return a trajectory of at most :data:`MOST_TIMES`, and a sentence where times are left out.

    It keeps every k-th time with its outputs as they are, and the last one.
    """
    size = trajectory.time.size
    every = -(-size // MOST_TIMES)
    if every <= 1:
        return trajectory, []
    kept = np.append(np.arange(0, size - 1, every), size - 1)
    outputs = {name: values[kept] for name, values in trajectory.outputs.items()}
    said = (
        f"trajectory.csv holds {kept.size:,} of the {size:,} times that were solved: 1 in {every}"
    )
    return Trajectory(trajectory.time[kept], outputs, trajectory.held), [said]


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Write a trajectory as CSV: time, then one column per output, by plain name."""
    write_columns(path, {"time": trajectory.time, **trajectory.outputs})


def read_trajectory(path: Path) -> Trajectory:
    """Read a trajectory that was written with :func:`write_trajectory`.

    Raises
    ------
    FluidServeError
        If the file cannot be read as one.
    """
    columns = read_columns(path)
    try:
        time = columns.pop("time")
        return Trajectory(
            time, {name: np.asarray(values, float) for name, values in columns.items()}
        )
    except (KeyError, ValueError) as error:
        raise FluidServeError(f"{path} is not a trajectory: {error}") from None


def read_columns(path: Path) -> dict[str, Any]:
    """Read a CSV file with a header as arrays by column, numbers where all are numbers.

    Raises
    ------
    FluidServeError
        If the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        columns = list(zip(*rows[1:], strict=True)) if len(rows) > 1 else [()] * len(rows[0])
        return {name: _typed(values) for name, values in zip(rows[0], columns, strict=True)}
    except OSError as error:
        raise FluidServeError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError):
        raise FluidServeError(f"{path} is not CSV with a header and equal rows") from None


def _typed(values: Sequence[str]) -> Any:
    try:
        return np.array([value or "nan" for value in values], dtype=float)
    except ValueError:
        return np.array(values)
