"""How compiled kernels are cached: afresh whenever a source that they may call changes.

Whoever waits for a compiler is told so once, by a line of the logger of this module.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import event

HOME = Path(__file__).resolve().parents[1]
ROOMS = ("serving", "discrete", "fluid", "ode", "workload", "calibration", "studies", "scheduling")
"""Rooms that may hold compiled functions, each after all those that it may import."""


SILENT = 1.0
"""Seconds of compiling that nobody is told of."""

LOGGER = logging.getLogger(__name__)


class _Patience(event.Listener):
    """Says that a compiler is at work when that has taken longer than :data:`SILENT`, once.

    Numba tells of every function when it begins and ends; those that a kernel calls come within it.
    """

    def __init__(self) -> None:
        self.depth, self.began, self.is_said = 0, 0.0, False

    def on_start(self, event: Any) -> None:
        """Note the beginning of the outermost function, or look how long ago that was."""
        if self.depth == 0:
            self.began = time.monotonic()
        self.depth += 1
        if not self.is_said and time.monotonic() - self.began > SILENT:
            self.is_said = True
            LOGGER.info(
                "compiling the engine or solver, which takes some ten seconds once after an "
                "installation or an update"
            )

    def on_end(self, event: Any) -> None:
        """Note the end of a function."""
        self.depth -= 1


event.register("numba:compile", _Patience())


@cache
def _stamp(home: Path) -> str:
    """Return a digest of the sources that a compiled function of the folder ``home`` may call.

    They are those of its room and of every room before it; of a folder outside the rooms, its own
    and those of all rooms.
    """
    room = next((k for k, name in enumerate(ROOMS) if home.is_relative_to(HOME / name)), None)
    folders = [HOME / name for name in (ROOMS if room is None else ROOMS[: room + 1])]
    if room is None:
        folders.append(home)
    digest = hashlib.sha256()
    for folder in folders:
        for source in sorted(folder.rglob("*.py")):
            digest.update(str(source.relative_to(folder)).encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile with Numba and keep the machine code on disk.

    Numba renews a cached kernel when the file that defines it changes, but a kernel also contains
    what it inlined from other files, of its own room or of a lower one, and the constants it took
    from them. Here the stamp of a cached kernel is the content of every source that it may call,
    see :data:`ROOMS`, which takes a few milliseconds to read, once per process.

    Parameters
    ----------
    function
        What to compile; may be omitted to give options: ``@compiled(fastmath=True)``.
    **options
        Of ``numba.njit``. Division follows IEEE rules rather than raising. Python's lock is left to
        other threads meanwhile, so that one of them can end the process.
    """
    if function is None:
        return lambda it: compiled(it, **options)
    dispatcher: Any = numba.njit(cache=True, error_model="numpy", nogil=True, **options)(function)
    cache = getattr(dispatcher, "_cache", None)
    if cache is not None:  # None where NUMBA_DISABLE_JIT is set
        home = Path(function.__code__.co_filename).resolve().parent
        cache._cache_file._source_stamp = _stamp(home)
    return dispatcher
