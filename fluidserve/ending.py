"""End the command on Ctrl-C, SIGTERM and SIGHUP: at once, with one line, and nothing left over.

An exception (Python's own way) is lost in callbacks of compilers, turns into other errors on its
way out of compiled code, and comes only when compiled code returns. Here nothing is raised. The
handler undoes what is unfinished and ends the process. Where the main thread is in compiled code,
which a handler must wait for, a second thread does the same: compiled code leaves Python's lock to
others (``nogil``, see :mod:`serving.compilation`).

This module imports next to nothing, since it has to be there before everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import allocate_lock, get_ident, start_new_thread

TYPE_CHECKING = False  # typing's own costs 2 ms here
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED = 130
"""Exit status."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
GRACE, PATIENCE, LONGEST = 0.3, 1.3, 1.7
"""Time [s] from a signal in which the main thread may end by itself; in which whatever must not be
cut may be completed; after which the process ends, whatever hangs."""

_once = allocate_lock()
_ender: int | None = None


def install() -> None:
    """End this process by one line from now on; a signal that is ignored stays ignored."""
    if os.name == "posix" and signal.set_wakeup_fd(-1) == -1:
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        start_new_thread(_watch, (heard,))
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _heard)


def finished() -> None:
    """Ignore signals from now on: the work is done, and Python is closing down."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _heard(*_: object) -> None:
    """End, or after the block that must not be cut."""
    if _ender == get_ident():
        return  # a second Ctrl-C while the first is at work
    registry = sys.modules.get("serving.unfinished")
    wait = getattr(registry, "when_whole", None)
    end() if wait is None else wait(end)


def end() -> NoReturn:
    """Undo what is unfinished, say so in one line and end the process; the first caller does."""
    global _ender
    _once.acquire()  # never released: whoever comes second waits for the process to end
    _ender = get_ident()
    _leave(_undo())


def _undo() -> str:
    undo = getattr(sys.modules.get("serving.unfinished"), "undo", None)
    return undo() if undo is not None else ""


def _leave(said: str = "") -> NoReturn:
    start = "\r\x1b[K" if os.isatty(2) else ""  # over a line of progress
    line = f"{start}fluidserve: interrupted{'; ' if said else ''}{said}\n"
    try:
        os.write(2, line.encode())
    finally:
        os._exit(INTERRUPTED)


def _watch(heard: int) -> NoReturn:
    """End the process once a signal was heard, unless the main thread has by then."""
    os.read(heard, 1)
    began = time.monotonic()
    time.sleep(GRACE)
    is_whole = getattr(sys.modules.get("serving.unfinished"), "is_whole", lambda: True)
    while _ender is None and not is_whole() and time.monotonic() < began + PATIENCE:
        time.sleep(0.01)
    if _ender is None:
        start_new_thread(end, ())
    time.sleep(max(began + LONGEST - time.monotonic(), 0.0))
    start_new_thread(_undo, ())  # what comes after the action that hangs
    time.sleep(0.1)
    _leave()
