"""Read dates with a time of day, with or without a zone, as seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError

FORM = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?) ?(?:(Z)|([+-])(\d\d):?(\d\d)?)?",
    re.ASCII,
)
"""Date, time of day, and a zone: Z or an offset from UTC."""

FIRST_YEAR, LAST_YEAR = "1700", "2250"
"""Years that a count of nanoseconds from 1970 can hold, with room to spare."""

ALLOWED = (
    "allowed: a time such as 2023-11-16 18:15:46.680 or 2023-11-16T18:15:46+08:00, "
    "with a zone in all rows or in none"
)


def looks_like_a_date(value: object) -> bool:
    """Return whether a value is meant as a date: four digits and a dash begin it."""
    return isinstance(value, str) and re.match(r"\s*\d{4}-", value, re.ASCII) is not None


def calendar_seconds(values: Sequence[str], name: str, path: Path) -> NDArray[np.float64]:
    """Return ``YYYY-MM-DD HH:MM:SS[.fraction][zone]`` strings as seconds, to the nanosecond.

    They count from midnight (UTC, where there are zones) of the day of the earliest.

    Parameters
    ----------
    values
        One time per row, with a zone in all of them or in none.
    name, path
        Column and file, for the message.

    Raises
    ------
    WorkloadError
        Naming the first that is not such a time, or that alone has, or lacks, a zone.
    """
    found = [FORM.fullmatch(value.strip()) if isinstance(value, str) else None for value in values]
    zoned = found[0] is not None and has_zone(found[0])
    stamps = [None if each is None or has_zone(each) != zoned else _utc(each) for each in found]
    for row, stamp in enumerate(stamps):
        if stamp is None or np.isnat(stamp):
            raise WorkloadError(ALLOWED, path=path, row=row + 1, column=name, value=values[row])
    return since_midnight(np.array(stamps, dtype="datetime64[ns]"))


def since_midnight(stamps: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Return moments as seconds from midnight of the day of the earliest, shape (R,)."""
    since = stamps - stamps.min().astype("datetime64[D]")
    return since.astype(np.int64) / 1e9


def has_zone(match: re.Match[str]) -> bool:
    """Return whether a time that has the form carries a zone."""
    return match[3] is not None or match[4] is not None


def ahead_of_utc(match: re.Match[str]) -> np.timedelta64 | None:
    """Return by how much the zone of a time is ahead of UTC; None where no zone can be so far."""
    hours, minutes = int(match[5] or 0), int(match[6] or 0)
    if hours > 18 or minutes > 59:
        return None
    return np.timedelta64((-1 if match[4] == "-" else 1) * (60 * hours + minutes), "m")


def _utc(match: re.Match[str]) -> np.datetime64 | None:
    """Return a time that has the form as a moment; None where the calendar has no such time."""
    ahead = ahead_of_utc(match)
    if ahead is None or not FIRST_YEAR <= match[1][:4] <= LAST_YEAR:
        return None
    clock, _, fraction = match[2].partition(".")
    try:  # NumPy takes further digits for a zone
        return np.datetime64(f"{match[1]}T{clock}.{fraction[:9]}".rstrip("."), "ns") - ahead
    except ValueError:
        return None
