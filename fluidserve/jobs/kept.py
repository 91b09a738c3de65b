"""Keep the runs of a command that may be interrupted: the same command goes on from them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from serving import unfinished

if TYPE_CHECKING:
    from scheduling.experiment import Routing
    from studies.question import Question
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
    return digest_of_file(path) if path.is_file() else ""


def digest_of_file(path: str | Path) -> str:
    """Return a digest of what a file holds."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def identity_of(*what: Any) -> str:
    """Return a digest of this version and of anything that JSON, or words, can tell."""
    told = json.dumps([version("fluidserve"), *what], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def identity_of_requests(question: Question) -> str:
    """Return a digest of the requests of a question."""
    digest, table = hashlib.sha256(), question.requests.arrays()
    for name in sorted(table):
        digest.update(name.encode() + table[name].tobytes())
    return identity_of(question.seed, question.num_requests, question.horizon, digest.hexdigest())


def identity_of_routing(routing: Routing, *more: Any) -> str:
    """Return a digest of everything that runs of an experiment depend on, and of ``more``."""
    return identity_of(
        identity_of_requests(routing.question),
        [[each.engine, asdict(cast(Any, each))] for each in routing.instances],
        [[name, content_of(name)] for name in routing.policies],
        routing.loads, routing.seeds, asdict(routing.signals), routing.decision_time,
        routing.predicted_lengths, asdict(routing.faults), routing.goodput, more,
    )  # fmt: skip
