"""Hold the decisions of one side against the other's, column by column."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from columns import NOT_DECIDED
from real_side import Answer

OPEN = {"pending", "stuck", "swap_space_exhausted"}
"""States of a request that has not ended; a real scheduler has one word for all."""


@dataclass(frozen=True)
class Difference:
    """The first place at which two sides differ."""

    case: str
    log: str
    row: int
    column: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return (
            f"{self.case}: {self.log}, row {self.row}, column {self.column}: "
            f"ours {self.ours!r}, theirs {self.theirs!r}"
        )


def difference(case: str, ours: Answer, theirs: Answer) -> Difference | None:
    """Return the first difference, or None if every column of every row is equal.

    Where the real run broke off, only the rows of steps whose output was applied are compared; if
    it raised, ours has to end there too.
    """
    return _decisions(case, ours, theirs) or _requests(case, ours, theirs)


def _decisions(case: str, ours: Answer, theirs: Answer) -> Difference | None:
    mine, columns = _table(ours.decisions)
    real, wanted = _table(theirs.decisions)
    if columns != wanted:
        return Difference(case, "decision log", 0, "header", " ".join(columns), " ".join(wanted))
    if theirs.is_cut:  # what was decided and never came back has no outcome to compare
        real = real[: theirs.applied]
        if theirs.status in ("stuck", "max_iters"):
            mine = mine[: theirs.applied]
    found = _first(case, "decision log", columns, mine, real)
    if found is None and len(mine) != len(real):
        found = Difference(
            case, "decision log", min(len(mine), len(real)), "rows", str(len(mine)), str(len(real))
        )
    return found


def _requests(case: str, ours: Answer, theirs: Answer) -> Difference | None:
    if theirs.is_cut:
        return None
    mine, columns = _table(ours.requests)
    real, wanted = _table(theirs.requests)
    if columns != wanted:
        return Difference(case, "request log", 0, "header", " ".join(columns), " ".join(wanted))
    for row in mine:
        if theirs.status == "stuck" and row["status"] in OPEN:
            row["status"] = "pending"
    found = _first(case, "request log", columns, mine, real)
    if found is None and len(mine) != len(real):
        found = Difference(case, "request log", 0, "rows", str(len(mine)), str(len(real)))
    return found


def _table(text: str) -> tuple[list[dict[str, str]], list[str]]:
    reader = csv.DictReader(io.StringIO(text))
    return list(reader), [name for name in reader.fieldnames or () if name not in NOT_DECIDED]


def _first(
    case: str,
    log: str,
    columns: list[str],
    mine: list[dict[str, str]],
    real: list[dict[str, str]],
) -> Difference | None:
    for number, (ours, theirs) in enumerate(zip(mine, real, strict=False)):
        for column in columns:
            if ours[column] != theirs[column]:
                return Difference(case, log, number, column, ours[column], theirs[column])
    return None
