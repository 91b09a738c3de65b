"""A clock is written as seconds, or as dates with times (ISO 8601)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
"""Beginning of a date with a time."""


def seconds_of_date(text: str) -> float | None:
    """Return a date with a time as seconds since 1970; None for anything else.

    A date without a zone is taken as UTC.
    """
    text = text.strip()
    if not DATE.match(text):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None


def calendar_clock(values: Sequence[str]) -> NDArray[np.float64] | None:
    """Return dates with times as seconds since 1970, shape (R,); None where one is none."""
    if not values or not DATE.match(values[0].strip()):
        return None
    found = [seconds_of_date(each) for each in values]
    if any(each is None for each in found):
        return None
    return np.array(found, dtype=float)
