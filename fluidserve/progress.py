"""Show progress on stderr: one line that is rewritten on a terminal, a few lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from fluidserve.methods import method_name


def tell(text: str) -> None:
    """Say a sentence on stderr: in lines that fit a terminal on one, as one line elsewhere."""
    from fluidserve.tables.layout import wrapped

    click.echo(wrapped(text, "  ") if sys.stderr.isatty() else text, err=True)


class ProgressLine:
    """Says how far long work is, never more often than is worth reading.

    Parameters
    ----------
    every : [seconds]
        Least time between two words; 0.2 on a terminal, 5 in a log.
    """

    def __init__(self, every: float | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = every if every is not None else (0.2 if self._terminal else 5.0)
        self._last = time.monotonic()
        self._open = False

    def say(self, text: str, *, final: bool = False) -> None:
        """Show ``text`` if it is time to, or ``final`` and something was shown before."""
        now = time.monotonic()
        if now - self._last < self._every and not (final and self._open):
            return
        self._last = now
        if self._terminal:
            print(f"\r{text}\x1b[K", end="\n" if final else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        self._open = not final


def comparison_progress(verbose: bool) -> Callable[[str, int, int], None] | None:
    """Return a callback for the steps of a comparison; None where nobody wants to know."""
    if not verbose:
        return None
    line = ProgressLine()

    def told(step: str, done: int, total: int) -> None:
        if step == "replication":
            line.say(f"replication {done} of {total}", final=done >= total)
        else:
            print(f"solving {method_name(step)} ...", file=sys.stderr, flush=True)

    return told
