"""Whole files only: written to a temporary name and renamed when complete."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serving.errors import FileAccessError
from serving.unfinished import undone, whole

STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name when the block ends well.

    A block that raises or is interrupted leaves nothing under either name. Text is UTF-8 with
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
    path = Path(path)
    coding: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        if (stream := _stream(path)) is not None:
            with open(stream, mode, **coding) as file:
                yield file
            return
        with _beside(path.resolve(), mode, coding) as file:
            yield file
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _beside(final: Path, mode: str, coding: dict[str, Any]) -> Iterator[IO[Any]]:
    """Open a file beside ``final`` that takes its name when the block ends well."""
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}")

    def remove() -> None:
        temporary.unlink(missing_ok=True)

    with undone(remove):
        try:
            with open(temporary, mode.replace("w", "x"), **coding) as file:
                yield file
            if final.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
            with whole():
                os.replace(temporary, final)
        except BaseException:
            remove()
            raise


def check_writable(path: str | Path, *sources: str | Path) -> None:
    """Refuse a name that cannot be written, or that is a file still to be read.

    Commands ask before they work: an answer that can be put nowhere is lost.

    Parameters
    ----------
    path
        Name to be given to :func:`atomic_write` later.
    *sources
        Files that the command reads.

    Raises
    ------
    FileAccessError
        Saying why.
    """
    path = Path(path)
    for source in sources:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise FileAccessError(f"{path}: is the file that is read; write to another name")
    if path.is_dir():
        raise FileAccessError(f"{path}: cannot be written: it is a folder")
    try:
        stream = _stream(path)
        if isinstance(stream, int):
            os.close(stream)
        elif stream is None:
            _probe(path.resolve())
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from error


def _probe(final: Path) -> None:
    """Make a file beside ``final`` and take it away again."""
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}")

    def remove() -> None:
        temporary.unlink(missing_ok=True)

    with undone(remove):
        try:
            open(temporary, "x").close()
        finally:
            remove()


def _stream(path: Path) -> int | Path | None:
    """Return the descriptor, pipe or device that ``path`` is; None if a file can take the name."""
    name = str(path.absolute())
    for prefix in ("/dev/fd/", "/proc/self/fd/"):
        name = name.removeprefix(prefix)
    if name.isdecimal() or name in STREAMS:
        return os.dup(STREAMS.get(name) or int(name))
    return path if path.exists() and not path.is_file() and not path.is_dir() else None
