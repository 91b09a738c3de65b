"""Whole files only: written to a temporary name and renamed when complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serving.errors import FileAccessError

STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name when the block ends well.

    A block that raises (Ctrl-C included) leaves nothing under either name. Text is UTF-8 with
    newlines as written. A link stays, and what it leads to is replaced; a pipe or device
    (``/dev/stdout``) is no name to take, and written as it comes.

    Parameters
    ----------
    path
        Final name; its folder must exist.
    mode
        ``"w"`` for text, ``"wb"`` for bytes.

    Raises
    ------
    FileAccessError
        If the folder or file cannot be written.
    """
    path, temporary = Path(path), None
    coding: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        if (stream := _stream(path)) is not None:
            with open(stream, mode, **coding) as file:
                yield file
            return
        final = path.resolve()
        handle, temporary = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.")
        with os.fdopen(handle, mode, **coding) as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, final)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise FileAccessError(f"{path}: cannot be written: {error.strerror}") from error
        raise


def _stream(path: Path) -> int | Path | None:
    """Return the descriptor, pipe or device that ``path`` is; None if a file can take the name."""
    name = str(path.absolute())
    for prefix in ("/dev/fd/", "/proc/self/fd/"):
        name = name.removeprefix(prefix)
    if name.isdecimal() or name in STREAMS:
        return os.dup(STREAMS.get(name) or int(name))
    return path if path.exists() and not path.is_file() and not path.is_dir() else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
