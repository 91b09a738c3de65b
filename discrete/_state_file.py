"""A run at rest, in one file: saved at a batch, resumed bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from discrete._engine import Engine, engine_for
from serving import KINDS, BatchTimeLaw, FileAccessError, Instance, RequestTable
from serving.files import atomic_write

FORMAT, VERSION = "fluidserve engine state", 4
TABLE = "table_"
"""What the names of the arrays of the request table begin with."""


def save_state(engine: Engine, path: str | Path) -> None:
    """Write the engine's state; the same state gives the same bytes.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    about = {
        "format": FORMAT,
        "version": VERSION,
        "engine": engine.instance.engine,
        "instance": asdict(cast(Any, engine.instance)),
        "seed": engine.seed,
        "record_batches": engine.record_batches,
        "record_events": engine.record_events,
        "finished": engine.finished,
    }
    table = engine.requests.arrays()
    arrays = engine.arrays() | {f"{TABLE}{name}": column for name, column in table.items()}
    about["digest"] = _digest(arrays)
    arrays["about"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    with atomic_write(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def resume(path: str | Path) -> Engine:
    """Return the engine that :func:`save_state` wrote, ready to advance.

    Raises
    ------
    FileAccessError
        If the file is missing, damaged, not a state, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(bytes(arrays.pop("about")))
    except OSError as error:
        reason = error.strerror or "not an engine state"
        raise FileAccessError(f"{path}: cannot be read: {reason}") from error
    except (ValueError, KeyError, BadZipFile, EOFError) as error:
        raise FileAccessError(f"{path}: not an engine state") from error
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise FileAccessError(
            f"{path}: an engine state of version {about.get('version')}; allowed: {VERSION}"
        )
    if about.get("digest") != _digest(arrays):
        # compiled code follows what the arrays say: a changed link would lead it astray
        raise FileAccessError(f"{path}: a damaged engine state: its content is not what was saved")
    instance = _instance(about["engine"], about["instance"], path)
    columns = [name for name in arrays if name.startswith(TABLE)]
    table = RequestTable.from_arrays({name[len(TABLE) :]: arrays.pop(name) for name in columns})
    engine = engine_for(
        table,
        instance,
        seed=about["seed"],
        record_batches=about["record_batches"],
        record_events=about["record_events"],
        sample_times=arrays["grid"],
    )
    engine.restore(arrays)
    engine.finished = about["finished"]
    return engine


def _instance(name: str, spec: dict[str, Any], path: str | Path) -> Instance:
    """Return the instance of a state file, of the kind that it names."""
    if name not in KINDS:
        known = ", ".join(KINDS)
        raise FileAccessError(f"{path}: a state of the engine {name!r}; engines: {known}")
    law = BatchTimeLaw(**spec["batch_time"])
    return KINDS[name].settings(**{**spec, "batch_time": law})


def _digest(arrays: dict[str, NDArray]) -> str:
    """Return a digest of names, layouts and contents."""
    digest = sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {values.dtype.descr} {values.shape} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
