"""Run a campaign into a journal, and read one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import FileAccessError, FluidServeError, RequestMix
from studies.campaign.fit import SEEDS
from studies.campaign.rows import Shared, row_of
from studies.sweeps import Journal, sweep

MOST_SCENARIOS = 1_000_000
"""Numbers that a journal has room for."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """Rows of a journal, and where they are from.

    Parameters
    ----------
    seed
        That the scenarios were drawn with; None for rows that were put together from several.
    files
        Names of the files whose lengths were used.
    rows
        By number of the scenario, ascending.
    """

    seed: int | None
    files: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def unseen(self) -> tuple[Mapping[str, Any], ...]:
        """The rows that no fit saw: all of a seed that is for judging, else those held out."""
        if self.seed is not None and self.seed not in SEEDS:
            return self.rows
        return tuple(row for row in self.rows if row.get("held_out"))


def identity(seed: int, files: Mapping[str, RequestMix], only: str | None = None) -> str:
    """Return what tells the journals of two campaigns apart; ``only`` is the protocol of all."""
    part = "" if only is None else f"{only} only, "
    return f"error campaign, seed {seed}, {part}files {' '.join(sorted(files))}"


def run_campaign(
    path: Path,
    shared: Shared,
    numbers: Sequence[int],
    *,
    only: str | None = None,
    workers: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> None:
    """Run the scenarios that a journal does not have.

    Parameters
    ----------
    path
        Of the journal; made where there is none.
    shared
        See :func:`studies.campaign.rows.row_of`.
    numbers
        Of the scenarios, the same ones or more at the end if the journal is there.
    only
        Protocol of the numbers, where they are only those of one.
    workers
        Processes; all cores by default.
    told
        Called with the scenarios done and to do.
    """
    journal = Journal(path, identity(shared[0], shared[1], only), MOST_SCENARIOS)
    try:
        sweep(row_of, shared, numbers, journal, workers=workers, progress=told)
    finally:
        journal.close()


def read_campaign(path: Path) -> Campaign:
    """Return a journal, which may be growing.

    Raises
    ------
    FileAccessError, FluidServeError
        If it cannot be read, or is no journal of a campaign.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise FileAccessError(f"{path}: cannot be read: {error}") from None
    try:
        header = json.loads(lines[0])
        name = header.get("content", header)["sweep"]
        rows: dict[int, Mapping[str, Any]] = {}
        for line in lines[1:]:
            if line.endswith("\n"):
                rows |= {int(number): row for number, row in json.loads(line)["content"]}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise FluidServeError(f"{path} is no journal of a campaign") from None
    words = re.fullmatch(r"error campaign, seed (\d+), (?:\w+ only, )?files (.*)", name)
    seed, files = (None, ()) if words is None else (int(words[1]), tuple(words[2].split()))
    return Campaign(seed, files, tuple(rows[number] for number in sorted(rows)))
