"""Find, describe, compare and pack experiment folders."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluidserve.folders import HOME, META, to_json
from serving import FileAccessError, FluidServeError
from serving.files import atomic_write

SUMMARY = "summary.json"
EXPORTS = (".csv", ".json")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment folder.

    Parameters
    ----------
    folder
        Where it is.
    meta, summary
        Its ``meta.json`` and ``summary.json``.
    """

    folder: Path
    meta: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics of the run or solution; of a comparison, the engine's."""
        of = self.summary.get("discrete", self.summary)
        return of.get("metrics") or {}

    def row(self) -> dict[str, Any]:
        """Return one flat row: what it was and every metric."""
        workload = self.summary.get("workload", {})
        return {
            "experiment": self.folder.name,
            "kind": self.summary.get("kind"),
            "finished": self.meta.get("finished"),
            "seed": self.summary.get("seed"),
            "source": workload.get("scenario") or workload.get("types") or workload.get("file"),
            "requests": workload.get("requests"),
            "load": workload.get("load"),
            **{key: value for key, value in self.metrics.items() if not isinstance(value, dict)},
        }

    def headline(self) -> dict[str, Any]:
        """Return what tells it from others at a glance."""
        row = self.row()
        shown = ("experiment", "kind", "finished", "source", "requests", "load")
        found = [key for key in row if key.startswith(("mean_ttft", "p99_ttft", "mean_e2el"))]
        return {key: row[key] for key in (*shown, *found)}


def open_experiment(name: str, home: Path = HOME) -> Experiment:
    """Return the experiment of a path, or of a name in ``home``.

    Raises
    ------
    FileAccessError
        If there is none.
    """
    for folder in (Path(name), home / name):
        if (folder / META).is_file():
            return Experiment(folder, _read(folder / META), _read(folder / SUMMARY))
    raise FileAccessError(f"{name} is no experiment folder, here or in {home}")


def find_experiments(home: Path = HOME) -> list[Experiment]:
    """Return every experiment below a folder, by name.

    Raises
    ------
    FileAccessError
        If there is no such folder, or a file in it cannot be read.
    """
    if not home.is_dir():
        raise FileAccessError(f"there is no folder {home}")
    folders = [path.parent for path in home.rglob(META)]
    folders = [each for each in folders if not any(p.startswith(".") for p in each.parts)]
    ours = [each for each in sorted(folders) if "fluidserve" in _read(each / META)]
    return [open_experiment(str(each), home) for each in ours]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise FileAccessError(f"{path} is not JSON") from None
    return content if isinstance(content, dict) else {}


def compared(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return the metrics of experiments side by side, and their changes from the first.

    Raises
    ------
    FluidServeError
        If there are fewer than two.
    """
    if len(experiments) < 2:
        raise FluidServeError("compare needs two experiments at least")
    rows = [each.row() for each in experiments]
    names = [str(each.folder) for each in experiments]
    shared = [key for key in rows[0] if all(_is_number(row.get(key)) for row in rows)]
    return {
        "experiments": names,
        "metrics": {
            key: {
                "values": [row[key] for row in rows],
                "change": [_change(rows[0][key], row[key]) for row in rows[1:]],
            }
            for key in shared
            if key != "seed"
        },
        "settings": {
            key: [each.summary.get("instance", {}).get(key) for each in experiments]
            for key in experiments[0].summary.get("instance", {})
            if len({str(e.summary.get("instance", {}).get(key)) for e in experiments}) > 1
        },
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _change(before: float, after: float) -> float | None:
    return after / before - 1 if before else None


def statistics(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return how many experiments of each kind there are, their size and their metrics' spread."""
    kinds: dict[str, int] = {}
    for each in experiments:
        kind = str(each.summary.get("kind"))
        kinds[kind] = kinds.get(kind, 0) + 1
    rows = [each.row() for each in experiments]
    spread = {}
    for key in dict.fromkeys(name for row in rows for name in row):
        values = sorted(row[key] for row in rows if _is_number(row.get(key)))
        if values and key != "seed":
            mean = math.fsum(values) / len(values)
            spread[key] = {"count": len(values), "mean": mean, "min": values[0], "max": values[-1]}
    files = [file for each in experiments for file in each.folder.iterdir() if file.is_file()]
    return {
        "experiments": len(experiments),
        "kinds": kinds,
        "bytes": sum(file.stat().st_size for file in files),
        "metrics": spread,
    }


def archive(experiments: Sequence[Experiment], output: str | Path) -> dict[str, Any]:
    """Write folders into one ``.tar.gz``, whole or not at all, and return what is in it.

    Raises
    ------
    FluidServeError
        If the name does not end so, or two folders have one name.
    """
    path = Path(output)
    if not path.name.endswith(".tar.gz"):
        raise FluidServeError(f"--output {output}: not allowed; allowed: a name ending in .tar.gz")
    names = [each.folder.resolve().name for each in experiments]
    if not names or len(set(names)) < len(names):
        raise FluidServeError("archive needs experiment folders of different names")
    with atomic_write(path, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, each in zip(names, experiments, strict=True):
            tar.add(each.folder, arcname=name)
    return {"output": str(path), "experiments": names, "bytes": path.stat().st_size}


def export(experiments: Sequence[Experiment], output: str | Path) -> dict[str, Any]:
    """Write one row per experiment as CSV or JSON, by the ending of the name.

    Raises
    ------
    FluidServeError
        If it ends otherwise.
    """
    path = Path(output)
    if path.suffix not in EXPORTS:
        raise FluidServeError(f"--output {output}: not allowed; allowed: {' or '.join(EXPORTS)}")
    rows = [each.row() for each in experiments]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    if path.suffix == ".json":
        text.write(to_json(rows) + "\n")
    else:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if row.get(c) is None else row[c] for c in columns] for row in rows])
    with atomic_write(path) as file:
        file.write(text.getvalue())
    return {"output": str(path), "experiments": len(rows), "columns": len(columns)}
