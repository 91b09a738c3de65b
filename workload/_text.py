"""Read a file as text, plain or gzip."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from pathlib import Path

from serving import FileAccessError, WorkloadError

GZIP_MAGIC = b"\x1f\x8b"

LARGEST = 4 * 2**30
"""Bytes of a file, unpacked; a pipe may never end."""


def read_text(path: Path) -> str:
    """Return the text of a plain or gzip file.

    Raises
    ------
    FileAccessError
        If it cannot be opened, is a device, or holds more than :data:`LARGEST` bytes.
    WorkloadError
        If it is empty, damaged or not UTF-8 text.
    """
    raw = _bytes(path)
    if raw.startswith(GZIP_MAGIC):
        try:
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = _bounded(packed, path)
        except (OSError, EOFError, zlib.error) as error:
            raise WorkloadError(f"the gzip data is damaged: {error}", path=path) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkloadError(
            f"not a text file: byte {error.start} is not UTF-8", path=path
        ) from error
    if "\0" in text:
        raise WorkloadError("not a text file: it holds zero bytes", path=path)
    if not text or text.isspace():
        raise WorkloadError("the file is empty", path=path)
    return text


def _bytes(path: Path) -> bytes:
    """Return what a file or a pipe holds."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise FileAccessError(f"{path}: is a device; give a file or a pipe")
        with path.open("rb") as file:
            return _bounded(file, path)
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of a name with a zero byte
        raise FileAccessError(f"{str(path)!a}: cannot be read: {error}") from error


def _bounded(file: io.BufferedIOBase, path: Path) -> bytes:
    """Read up to the end, and no further than :data:`LARGEST` bytes."""
    raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise FileAccessError(f"{path}: holds more than {LARGEST} bytes; cut it into parts")
    return raw
