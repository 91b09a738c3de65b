"""Write experiment folders: whole or not at all, and with the same bytes for the same seed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fluidserve.front import AS_JSON
from fluidserve.plain import plain as plain
from fluidserve.plain import to_json as to_json
from fluidserve.progress import tell
from serving import FileAccessError
from serving.unfinished import undone, whole

HOME = Path("data/experiments")
REQUESTS = "requests.csv"
"""The requests that ran, after every cut and scale; ``config_used.yaml`` names it."""
META = "meta.json"
FILES = frozenset(
    {
        "config_used.yaml", "summary.json", "summary.txt", META, REQUESTS,
        "batch_snapshots.csv", "request_traces.csv", "events.csv", "memory_events.csv",
        "trajectory.csv", "comparison.csv",
        "step_time_fit.png", "step_time_residuals.png",
        "system_dynamics.png", "fluid_vs_discrete.png", "request_timeline.png", "report.html",
        "analysis.html", "elasticities.png", "rate_latency.csv", "rate_latency.png",
        "validation.csv", "validation.png", "routing.csv", "routing_runs.csv", "routing.png",
        "replicas.csv", "replicas.png",
    }
)  # fmt: skip
"""Every file that a command may write into an experiment folder."""


@contextmanager
def experiment_folder(out: str | Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield (folder to write into, its final path); it takes its final name when all went well.

    A folder is one experiment. A new one appears at once, whole. In the folder of an earlier
    experiment, its files give way at the end, whatever kind it was; files of others stay.
    Whatever goes wrong in between (Ctrl-C included) leaves all as it was.

    Parameters
    ----------
    out
        The experiment folder; ``data/experiments/experiment_YYYYmmdd_HHMMSS_PID`` without it.

    Raises
    ------
    FileAccessError
        If the folder cannot be written, or holds files but no experiment.
    """
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    final = Path(out) if out is not None else HOME / f"experiment_{stamp}_{os.getpid()}"
    made = _missing_parents(final)
    partial = final.parent / f".{final.name}.partial-{os.getpid()}"

    def remove() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            _remove_if_empty(folder)

    with undone(remove):
        try:
            with _made(partial, final):
                yield partial, final
        except BaseException as error:
            remove()
            if isinstance(error, FileAccessError):
                raise FileAccessError(str(error).replace(str(partial), str(final))) from error
            if isinstance(error, OSError):
                where = error.filename or final
                raise FileAccessError(f"cannot write {where}: {error.strerror or error}") from None
            raise


@contextmanager
def _made(partial: Path, final: Path) -> Iterator[None]:
    """Make ``partial``, and put it in the place of ``final`` when the block ends well."""
    if final.exists() and not final.is_dir():
        raise FileAccessError(f"{final} is not a folder")
    if final.is_dir() and not os.access(final, os.W_OK):
        raise FileAccessError(f"cannot write into the folder {final}: Permission denied")
    _refuse_foreign(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    yield
    with whole():
        if final.is_dir():
            _replace_experiment(final, partial)
        else:
            os.replace(partial, final)


def _refuse_foreign(final: Path) -> None:
    """Refuse a folder of somebody else's files, hidden ones aside."""
    if not final.is_dir() or all(file.name.startswith(".") for file in final.iterdir()):
        return
    try:
        ours = "fluidserve" in json.loads((final / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise FileAccessError(
            f"{final} holds files, but no experiment of fluidserve; name a new or an empty folder"
        )


def _replace_experiment(final: Path, partial: Path) -> None:
    """Put the files of ``partial`` in place of those of the experiment in ``final``."""
    new = {file.name for file in partial.iterdir()}
    for name in sorted(FILES - new):
        (final / name).unlink(missing_ok=True)
    for name in sorted(new):
        os.replace(partial / name, final / name)
    partial.rmdir()


def _missing_parents(final: Path) -> list[Path]:
    """Return the parents that do not exist yet, deepest first."""
    return [folder for folder in final.absolute().parents if not folder.exists()]


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def emit(value: Any, table: Callable[[Any], str] | None = None) -> None:
    """Print a result on stdout: a table for people on a terminal, JSON for programs elsewhere.

    Parameters
    ----------
    value
        The result.
    table
        Makes the table of it; one line per value without it. ``--json`` and ``--table`` choose.

    Notes
    -----
    What to know before trusting the result, its ``warnings``, is said on stderr: below a table,
    where one reads on, and before JSON, whose reader may stop listening.
    """
    if _as_json():
        _warn(value)
        click.echo(to_json(value))
        return
    from fluidserve.tables import plain_table

    click.echo((table or plain_table)(plain(value)))
    if isinstance(value, Mapping) and isinstance(error := value.get("error"), Mapping):
        tell(f"expected: {error['words']}")  # JSON holds it
    _warn(value)


def _warn(value: Any) -> None:
    """Say on stderr what was chosen for the user, and what to know before trusting the result."""
    if not isinstance(value, Mapping):
        return
    note = (value.get("workload") or {}).get("note")
    if note:
        tell(f"note: {note}")
    for warning in value.get("warnings", ()):
        tell(f"warning: {warning}")


def _as_json() -> bool:
    """Return whether the user asked for JSON, or nobody looks at the output."""
    context = click.get_current_context(silent=True)
    chosen = None if context is None else context.meta.get(AS_JSON)
    return not sys.stdout.isatty() if chosen is None else chosen


def write_common(
    folder: Path,
    final: Path,
    *,
    config_yaml: str,
    summary: Mapping[str, Any],
    people: str,
    seed: int,
    timings: Mapping[str, float],
) -> None:
    """Write the four files that every experiment folder has.

    ``summary.json`` and ``summary.txt`` say what came out, ``config_used.yaml`` what ran; only
    ``meta.json`` (version, seed, command, paths, timings) differs between equal runs.
    """
    from importlib.metadata import version

    meta = {
        "fluidserve": version("fluidserve"),
        "python": sys.version.split()[0],
        "numpy": version("numpy"),
        "command": ["fluidserve", *sys.argv[1:]],
        "working_directory": str(Path.cwd()),
        "folder": str(final),
        "seed": seed,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "timings_seconds": timings,
    }
    (folder / "config_used.yaml").write_text(config_yaml, encoding="utf-8")
    (folder / "summary.json").write_text(to_json(summary) + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(people, encoding="utf-8")
    (folder / META).write_text(to_json(meta) + "\n", encoding="utf-8")


class Stopwatch:
    """Seconds by name, for ``meta.json``.

    Attributes
    ----------
    speaks
        Whether to say on stderr what begins once a second of work has passed.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.speaks = False
        self._made = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block under ``name``."""
        start = time.perf_counter()
        if self.speaks and start - self._made > 1.0:
            click.echo(f"{start - self._made:.0f} s: {name} ...", err=True)
        yield
        self.seconds[name] = round(time.perf_counter() - start, 6)
