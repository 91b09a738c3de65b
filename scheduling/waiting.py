"""A request without a first token, as it is known to who follows an instance."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """A request without a first token: prompt to compute [tokens], class of lengths, when sent."""

    prompt: int
    of: int
    at: float


def size_of(entry: Waiting, unit: float) -> float:
    """Return for how many requests one counts in the order of arrival."""
    return entry.prompt / unit if unit > 0.0 else 1.0
