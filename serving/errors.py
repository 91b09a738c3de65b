"""The errors FluidServe raises on purpose. Each carries one line a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

LONGEST = 120
"""Characters of a value that an error shows."""


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Return the known word that is spelled most like another; None where none is like it."""
    folded = {_folded(each): each for each in known}
    close = difflib.get_close_matches(_folded(str(word))[:LONGEST], folded, 1, 0.6)
    return folded[close[0]] if close else None


def hint(word: object, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known word, or nothing."""
    close = nearest(word, known)
    return "" if close is None else f"; did you mean {close!r}?"


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


def shown(value: object) -> str:
    """Return a value as Python writes it, the beginning of a long one."""
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, deep nesting
        return f"(a {type(value).__name__} too long to show)"


def shortened(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def allowed_hint(value: object, allowed: str) -> str:
    """Return what is allowed, with the nearest of its choices where it lists some."""
    choices = [each for each in allowed.split(" | ") if each.replace("-", "_").isidentifier()]
    return allowed + (hint(value, choices) if isinstance(value, str) and len(choices) > 1 else "")


class FluidServeError(Exception):
    """Base of every deliberate error; the command line prints it and exits with 2."""


class ConfigError(FluidServeError):
    """A configuration key has a value that is not allowed, or is unknown.

    Parameters
    ----------
    key, value
        The offending key and what was given for it.
    allowed
        What would have been accepted, in words.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(
            f"config key {key!r}: {shown(value)} is not allowed; "
            f"allowed: {allowed_hint(value, allowed)}"
        )
        self.key, self.value, self.allowed = key, value, allowed


class WorkloadError(FluidServeError):
    """A request table or trace cannot be used; names file, row, column and value.

    Parameters
    ----------
    reason
        What is wrong, in words.
    path, row, column, value
        Where it is wrong. ``row`` counts data rows from 1 (the header is not a row).
    line
        Line of the file, from 1, where it is known: it follows the name of the file, ``FILE:9``.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        value: object = None,
        line: int | None = None,
    ) -> None:
        where = [] if path is None else [str(path) if line is None else f"{path}:{line}"]
        where += [f"row {row}"] if row is not None else []
        where += [f"column {column!r}"] if column is not None else []
        where += [f"value {shown(value)}"] if value is not None else []
        super().__init__(_one_line(": ".join([", ".join(where), reason]) if where else reason))
        self.reason, self.path, self.row = reason, path, row
        self.column, self.value, self.line = column, value, line

    def at_line(self, line: int) -> WorkloadError:
        """Return the same error with the line of the file that it is about."""
        return WorkloadError(
            self.reason, path=self.path, row=self.row, column=self.column, value=self.value,
            line=line,
        )  # fmt: skip


def _one_line(text: str) -> str:
    """Return a text whose control characters are written out, as Python would."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class UnsupportedError(FluidServeError):
    """A combination that the chosen method does not model; says which and why."""


class SolveError(FluidServeError):
    """A solver could not finish; carries its status and reason.

    Parameters
    ----------
    method
        Name of the solver.
    status
        Short machine-readable status.
    reason
        What happened, in words.
    """

    def __init__(self, method: str, status: str, reason: str) -> None:
        super().__init__(f"{method} failed ({status}): {reason}")
        self.method, self.status, self.reason = method, status, reason


class FileAccessError(FluidServeError):
    """A file or folder cannot be read or written; names it and says why."""
