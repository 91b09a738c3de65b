"""Read a file as text, plain or gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from serving import FileAccessError, WorkloadError

GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: Path) -> str:
    """Return the text of a plain or gzip file.

    Raises
    ------
    FileAccessError
        If it cannot be opened.
    WorkloadError
        If it is empty, damaged or not UTF-8 text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read: {error.strerror}") from error
    if raw.startswith(GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
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
