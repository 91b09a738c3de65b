"""Keep the runs of a command that may be interrupted: the same command goes on from them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving import unfinished

if TYPE_CHECKING:
    from studies.sweeps import Journal


@contextmanager
def journal_at(
    place: Path | None,
    identity: str,
    size: int,
    total: int | None = None,
    what: str = "runs",
) -> Iterator[Journal]:
    """Yield a journal of runs that goes when all is done; without a place nothing is kept.

    Parameters
    ----------
    place
        Its file.
    identity
        Digest of everything that the rows depend on.
    size
        One above the largest number of a run.
    total
        Runs in all, ``size`` by default; 0 where nobody knows.
    what
        Word for the runs.
    """
    from studies.sweeps import Journal

    if place is None:
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder) / "journal", identity, size)
            try:
                yield journal
            finally:
                journal.close()
        return

    with ExitStack() as stack:
        with unfinished.whole():
            journal = Journal(place, identity, size)
            kept = partial(journal.kept, size if total is None else total, what)
            stack.enter_context(unfinished.told(kept))
        try:
            yield journal
        except BaseException:
            if said := kept():
                click.echo(f"note: {said}", err=True)
            journal.close()
            raise
    journal.remove()


def content_of(policy: str) -> str:
    """Return a digest of the file of a user's policy."""
    path = Path(policy.rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
