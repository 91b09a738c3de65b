"""Which files belong to a run: its requests, and beside them settings and series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving import FileAccessError, WorkloadError

PACKED = ("", ".gz")
"""Ends of a file that may be packed."""

REQUESTS = (
    "_requests.csv", ".bench.json", "_per_request_lifecycle_metrics.json", "_profile_export.jsonl",
    "_guidellm.json",
)  # fmt: skip
"""What the name of a file of requests adds to the name of its run."""

OF_A_FOLDER = (
    "requests.jsonl", "per_request_lifecycle_metrics.json", "profile_export.jsonl", "requests.csv",
    "guidellm.json", "bench.json",
)  # fmt: skip
"""Files of requests of a folder that is one run."""

SETTINGS = ("_config.json", ".config.json")
SETTINGS_OF_A_FOLDER = ("meta.json", "config.json")
SERIES = ("_timeseries_1s.csv", "_timeseries_10s.csv", "_timeseries.csv")
SERIES_OF_A_FOLDER = ("timeseries.csv",)
INDEX = "index.csv"
"""Table of a folder of runs, a row each, with the settings of each server."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run; those that are not there are None."""

    name: str
    requests: Path
    settings: Path | None
    series: Path | None
    index: Path | None


def run_files(path: Path) -> RunFiles:
    """Return the files of the run that a path names.

    Parameters
    ----------
    path
        A file of requests; a folder that holds one run; or a folder and the name of one of its
        runs, such as ``runs/llama-2-7b-tp1-roleplay``.

    Raises
    ------
    FileAccessError
        If no run is there, or several are, which are listed.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return _of_requests(path)
    for end in REQUESTS:
        found = _first(path.parent, [path.name + end])
        if found is not None:
            return _of_requests(found)
    known = _runs_in(path.parent)
    there = f"; runs there: {', '.join(known)}" if known else ""
    raise FileAccessError(f"{path}: there is no such file or run{there}")


def _of_folder(folder: Path) -> RunFiles:
    one = _first(folder, OF_A_FOLDER)
    if one is not None and not _runs_in(folder):
        return RunFiles(
            folder.resolve().name, one, _first(folder, SETTINGS_OF_A_FOLDER),
            _first(folder, SERIES_OF_A_FOLDER), None,
        )  # fmt: skip
    runs = _runs_in(folder)
    if len(runs) == 1:
        return run_files(folder / runs[0])
    what = f"holds {len(runs)} runs; name one of them: " if runs else "holds no run"
    raise FileAccessError(f"{folder}: {what}" + ", ".join(str(folder / each) for each in runs))


def _of_requests(file: Path) -> RunFiles:
    folder, bare = file.parent, file.name.removesuffix(".gz")
    for end in REQUESTS:
        if bare.endswith(end):
            name = bare.removesuffix(end)
            return RunFiles(
                name, file, _first(folder, [name + each for each in SETTINGS]),
                _first(folder, [name + each for each in SERIES]), _first(folder, [INDEX]),
            )  # fmt: skip
    if bare in OF_A_FOLDER:
        return RunFiles(
            folder.resolve().name, file, _first(folder, SETTINGS_OF_A_FOLDER),
            _first(folder, SERIES_OF_A_FOLDER), None,
        )  # fmt: skip
    return RunFiles(Path(bare).stem, file, None, None, None)


def _first(folder: Path, names: list[str] | tuple[str, ...]) -> Path | None:
    for name in names:
        for end in PACKED:
            file = folder / (name + end)
            if file.is_file():
                return file
    return None


def _runs_in(folder: Path) -> list[str]:
    """Return the names of the runs whose files lie in a folder."""
    found: dict[str, None] = {}
    try:
        files = sorted(each.name.removesuffix(".gz") for each in folder.iterdir())
    except OSError:
        return []
    for end in REQUESTS:
        for file in files:
            if file.endswith(end) and file != end.lstrip("_."):
                found.setdefault(file.removesuffix(end))
    return [name for name in found if not name.endswith("_guidellm")]


def refuse_unnamed(files: RunFiles) -> None:
    """Refuse a run of a folder whose index does not have it."""
    if files.index is None:
        return
    raise WorkloadError(f"has no row of the run {files.name}", path=files.index, column="run")
