"""Whole files only: written to a temporary name and renamed when complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serving.errors import FileAccessError


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name when the block ends well.

    A block that raises (Ctrl-C included) leaves nothing under either name. Text is UTF-8 with
    newlines as written.

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
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with (
            os.fdopen(handle, mode)
            if "b" in mode
            else os.fdopen(handle, mode, encoding="utf-8", newline="")
        ) as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise FileAccessError(f"{path}: cannot be written: {error.strerror}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
