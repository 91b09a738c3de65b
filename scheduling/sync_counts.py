"""How the reports of an instance came in."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class SyncCounts:
    """How the reports of an instance came in.

    Parameters
    ----------
    applied, duplicate, late, lost
        Reports taken; that had come before; that came after a newer one, of which only beginnings
        and ends of requests are taken; and that have not come as far as the numbers of the batches
        tell.
    unknown
        Requests in reports that nobody had announced.
    silent_corrections : [requests]
        By how many requests the state was set right by counts that an instance reported.
    """

    applied: int = 0
    duplicate: int = 0
    late: int = 0
    lost: int = 0
    unknown: int = 0
    silent_corrections: float = 0.0


COUNTS = tuple(each.name for each in fields(SyncCounts))
"""Names of the counts."""
