"""Standard streams that fail: closed ones, readers that have gone, full disks."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> bool:
    """Make the streams fit to work with, and return whether stdout is open.

    A number of a closed stream would be that of the next file that is opened, and what is meant
    for the stream would go there. What cannot be said on stderr is not said: the work goes on.
    """
    is_open = sys.stdout is not None
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few characters
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Heedless(2, "w", closefd=False)),
        encoding=getattr(sys.stderr, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )
    return is_open


class _Heedless(io.FileIO):
    """A file that takes what it cannot write for written."""

    def write(self, data: object, /) -> int:
        """Write, or drop the bytes."""
        try:
            return super().write(data) or 0  # pyright: ignore[reportArgumentType]
        except OSError:
            return memoryview(data).nbytes  # pyright: ignore[reportArgumentType]


def give_up_stdout() -> None:
    """Have what stdout still holds go nowhere, or Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
