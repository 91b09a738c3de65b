"""How compiled kernels are cached: afresh whenever any source file of their room changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


@cache
def _room_stamp(room: Path) -> str:
    """Return a digest of the sources of a room."""
    digest = hashlib.sha256()
    for source in sorted(room.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile with Numba and keep the machine code on disk.

    Numba renews a cached kernel when the file that defines it changes, but a kernel also contains
    what it inlined from other files and the constants it took from them. Here the stamp of a
    cached kernel is the content of all sources of its room.

    Parameters
    ----------
    function
        What to compile; may be omitted to give options: ``@compiled(fastmath=True)``.
    **options
        Of ``numba.njit``. Division follows IEEE rules rather than raising.
    """
    if function is None:
        return lambda it: compiled(it, **options)
    dispatcher: Any = numba.njit(cache=True, error_model="numpy", **options)(function)
    cache = getattr(dispatcher, "_cache", None)
    if cache is not None:  # None where NUMBA_DISABLE_JIT is set
        cache._cache_file._source_stamp = _room_stamp(Path(function.__code__.co_filename).parent)
    return dispatcher
