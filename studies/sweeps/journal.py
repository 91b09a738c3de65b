"""What a sweep has finished, on disk as it goes: appended in whole chunks, never rewritten."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving import FileAccessError, FluidServeError

try:
    import fcntl
except ImportError:  # a platform without file locks: two sweeps at once are the user's to avoid
    fcntl = None

VERSION = 1


class Journal:
    """Rows of finished points, one line of JSON per chunk; a line counts whole or not at all.

    Parameters
    ----------
    path
        Of the file; made where there is none.
    sweep
        What identifies the sweep: a journal of another one is refused.
    size
        Points of the sweep.

    Raises
    ------
    FileAccessError
        If the file cannot be used.
    FluidServeError
        If it belongs to another sweep, or another process is writing it.
    """

    def __init__(self, path: str | Path, sweep: str, size: int) -> None:
        self.path = Path(path)
        self.rows: dict[int, Mapping[str, Any]] = {}
        header = {"journal": VERSION, "sweep": sweep, "points": size}
        try:
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise FileAccessError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self._read(header, size)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FluidServeError(f"{self.path}: another sweep is writing it") from None

    def _read(self, header: Mapping[str, Any], size: int) -> None:
        self._file.seek(0)
        kept = 0
        for number, line in enumerate(self._file):
            content = _unsealed(line)
            if content is None:
                break  # what a kill cut short, and whatever comes after it
            if number == 0:
                if content != header:
                    raise FluidServeError(
                        f"{self.path} is the journal of another sweep; remove it, or give another "
                        "--output"
                    )
            else:
                self.rows |= {int(i): row for i, row in content if 0 <= int(i) < size}
            kept += len(line)
        if kept == 0 and self._file.seek(0, os.SEEK_END) > 0 and not self._cut_header():
            raise FluidServeError(f"{self.path} is no journal of a sweep; give another --output")
        self._file.truncate(kept)
        self._file.seek(0, os.SEEK_END)
        if kept == 0:
            self._append(header)

    def _cut_header(self) -> bool:
        """Return whether the file is a first line that was cut short."""
        self._file.seek(0)
        content = self._file.read()
        return b"\n" not in content and content.startswith(b'{"digest"'[: len(content)])

    def add(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Append the rows of a chunk of points; when it returns they survive a kill."""
        chunk = [(index, row) for index, row in rows if index not in self.rows]
        if chunk:
            self._append(chunk)
            # Through JSON, as if they had been read back: rows are the same before and after.
            self.rows |= {index: row for index, row in json.loads(json.dumps(chunk))}

    def _append(self, content: Any) -> None:
        try:
            self._file.write(_sealed(content))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise FileAccessError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Leave the file to others."""
        self._file.close()

    def kept(self, size: int, what: str) -> str:
        """Return what the next call need not do again, in words; a journal of nothing goes.

        Parameters
        ----------
        size, what
            How many there are in all, 0 where nobody knows, and of what: ``points``.
        """
        if not self.rows:
            self.remove()
            return ""
        return (
            f"{len(self.rows)}{f' of {size}' if size else ''} {what} are kept in {self.path}; "
            "the same command goes on from there"
        )

    def remove(self) -> None:
        """Delete the file: its rows are in the result."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def _sealed(content: Any) -> bytes:
    """Return a line of JSON with a digest of what it says."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    line = json.dumps(
        {"digest": _digest(text), "content": json.loads(text)}, allow_nan=False, ensure_ascii=False
    )
    return (line + "\n").encode()


def _unsealed(line: bytes) -> Any:
    """Return what a line says; None where it is cut short or damaged."""
    try:
        if not line.endswith(b"\n"):
            return None
        sealed = json.loads(line)
        text = json.dumps(sealed["content"], allow_nan=False, ensure_ascii=False)
        return sealed["content"] if sealed["digest"] == _digest(text) else None
    except (ValueError, KeyError, TypeError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
