"""What is undone should the process be ended now: partial files, worker processes.

An exception undoes by ``finally``. A process that is told to end (Ctrl-C, SIGTERM) cannot rely on
that: compiled code raises nothing, callbacks of compilers drop what they are told to raise. So
whoever begins something that must not be left over names beforehand what undoes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_undo: dict[object, Callable[[], object]] = {}
_words: dict[object, Callable[[], str]] = {}
_sections = 0
_due: Callable[[], object] | None = None


@contextmanager
def undone(action: Callable[[], object]) -> Iterator[None]:
    """Have ``action`` called if the process is ended inside the block.

    Parameters
    ----------
    action
        Removes what the block makes, complete or not, or there at all. It may be called in any
        thread, and more than once.
    """
    token = object()
    _undo[token] = action
    try:
        yield
    finally:
        _undo.pop(token, None)


@contextmanager
def told(words: Callable[[], str]) -> Iterator[None]:
    """Have ``words`` said if the process is ended inside the block; empty for nothing to say."""
    token = object()
    _words[token] = words
    try:
        yield
    finally:
        del _words[token]


@contextmanager
def whole() -> Iterator[None]:
    """Let an end wait for the block, which is short: it puts finished things in their place."""
    global _sections
    _sections += 1
    try:
        yield
    finally:
        _sections -= 1
        if _sections == 0 and _due is not None:
            _due()


def when_whole(end: Callable[[], object]) -> None:
    """Call ``end`` now, or after the block that is not to be cut."""
    global _due
    if _sections:
        _due = end
    else:
        end()


def is_whole() -> bool:
    """Return whether no block is under way that is not to be cut."""
    return _sections == 0


def undo() -> str:
    """Undo what is unfinished, the latest first, and return what there is to say about it.

    A second call goes on after the action that holds the first one up.
    """
    said = []
    for words in list(_words.values()):
        with contextlib.suppress(Exception):
            said.append(words())
    while _undo:
        with contextlib.suppress(Exception):
            _undo.popitem()[1]()
    return "; ".join(text for text in said if text)
