"""Read a grid file, run its points, and write the result whole."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluidserve.jobs.kept import journal_at
from fluidserve.jobs.points import KINDS, check_key, files_of, parameters, row_of
from fluidserve.progress import ProgressLine
from fluidserve.yaml_keys import read_keys
from serving import FileAccessError, FluidServeError
from serving.files import atomic_write

if TYPE_CHECKING:
    from studies.sweeps import Grid

SUFFIXES = (".csv", ".parquet")


def swept(
    path: str, output: str, *, workers: int | None, scheduler: str | None, verbose: bool
) -> dict[str, Any]:
    """Run the sweep of a grid file and return what the command prints.

    Parameters
    ----------
    path
        Grid file.
    output
        Result: ``.csv`` or ``.parquet``; the journal lies beside it until the result is whole.
    workers, scheduler
        Where to run; see :func:`studies.sweeps.sweep`.
    verbose
        Whether to tell progress on stderr.
    """
    from studies.sweeps import sweep

    result = Path(output)
    _check_output(result)
    grid, folder = _grid(Path(path)), Path(path).resolve().parent
    identity, place = _identity(grid, folder), result.with_name(result.name + ".journal")
    line = ProgressLine()

    def told(done: int, total: int) -> None:
        line.say(f"point {done} of {total}", final=done >= total)

    with journal_at(place, identity, len(grid.points), what="points") as journal:
        resumed = len(journal.rows)
        rows = sweep(
            row_of,
            (grid.kind, str(folder), dict(grid.base)),
            grid.points,
            journal,
            workers=workers,
            scheduler=scheduler,
            progress=told if verbose else None,
        )
        _write(result, grid, rows)
    failed = [row["error"] for row in rows if row["error"] is not None]
    if failed:
        click.echo(
            f"note: {len(failed)} of {len(rows)} points failed, see the column error; "
            f"the first: {failed[0]}",
            err=True,
        )
    warned = [row["warnings"] for row in rows if row.get("warnings") is not None]
    return {
        "kind": grid.kind,
        "points": len(rows),
        "failed": len(failed),
        "warnings": _warnings(warned, len(rows)),
        "resumed": resumed,
        "varied": list(grid.varied),
        "output": str(result),
    }


def _warnings(warned: Sequence[str], points: int) -> list[str]:
    """Return one line on the points whose rows carry warnings."""
    if not warned:
        return []
    return [
        f"{len(warned)} of {points} points carry warnings, see the column warnings; the first: "
        f"{warned[0]}"
    ]


def _grid(path: Path) -> Grid:
    """Return the checked grid of a file; what is wrong with it names the file."""
    from studies.sweeps import grid_of

    content = read_keys(path)
    try:
        grid = grid_of(content, tuple(KINDS))
        for key in (*grid.base, *grid.varied):
            check_key(grid.kind, key)
        parameters(grid.kind, {**grid.base, **grid.points[0]})
    except FluidServeError as wrong:
        raise FluidServeError(f"{path}: {wrong}") from wrong
    return grid


def _check_output(result: Path) -> None:
    if result.suffix not in SUFFIXES:
        raise FluidServeError(f"--output {result}: not allowed; allowed: {' or '.join(SUFFIXES)}")
    if not result.parent.is_dir():
        raise FileAccessError(f"{result}: there is no folder {result.parent}")
    if result.suffix == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise FluidServeError(
                f"--output {result}: Parquet needs pyarrow: pip install 'fluidserve[parquet]'; "
                "or name a .csv"
            )


def _identity(grid: Grid, folder: Path) -> str:
    """Return a digest of everything that the rows depend on."""
    points = {key: value for point in grid.points for key, value in point.items()}
    named = {
        str(value)
        for keys in (grid.base, *grid.points)
        for key in files_of(grid.kind, keys)
        for value in [keys[key]]
    } if files_of(grid.kind, {**grid.base, **points}) else set()  # fmt: skip
    contents = {}
    for name in sorted(named):
        try:
            contents[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise FileAccessError(f"cannot read {folder / name}: {error.strerror}") from None
    what = [version("fluidserve"), grid.kind, dict(grid.base), list(grid.points), contents]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _write(result: Path, grid: Grid, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per point, in the order of the grid: the bytes say nothing of who ran it."""
    measured: dict[str, None] = {}
    for row in rows:
        measured |= dict.fromkeys(row)
    table = [
        {"point": index, **point, **{k: v for k, v in row.items() if k not in point}}
        for index, (point, row) in enumerate(zip(grid.points, rows, strict=True))
    ]
    columns = ["point", *grid.varied, *(name for name in measured if name not in grid.varied)]
    if result.suffix == ".parquet":
        _write_parquet(result, columns, table)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_text(row.get(name)) for name in columns] for row in table])
    with atomic_write(result) as file:
        file.write(text.getvalue())


def _text(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _write_parquet(
    result: Path, columns: Sequence[str], table: Sequence[Mapping[str, Any]]
) -> None:
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    arrays = {}
    for name in columns:
        values = [row.get(name) for row in table]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [None if value is None else str(value) for value in values]
        arrays[name] = pyarrow.array(values)
    with atomic_write(result, "wb") as file:
        parquet.write_table(pyarrow.table(arrays), file)
