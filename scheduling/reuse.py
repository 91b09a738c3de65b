"""When a forecast that is shared between decisions is made anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReusePolicy:
    """When a forecast is made anew on level ``reuse``.

    Parameters
    ----------
    batches
        After so many reported batches.
    requests : [requests]
        When so many more or fewer wait or run than it says.
    share
        When so much of the running requests more or fewer run than it says.
    """

    batches: int = 8
    requests: float = 1.0
    share: float = 0.05
