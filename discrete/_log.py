"""What an engine wrote while it ran, in the words that every engine shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from discrete._records import Records
from serving import Instance, RequestTable

HELD = (
    "running", "swapped", "completed", "evicted", "memory", "batch_size", "batch_tokens",
    "batch_duration",
)  # fmt: skip
"""Outputs that a scheduler sets at a batch boundary and that hold until the next one; those who
wait and those in the system follow from them and from the arrivals."""


class Log(Protocol):
    """The arrays of an engine at rest, read as records, steps and totals.

    An engine that keeps no batches or no events returns empty records for them; :class:`Run` does
    not ask for what was not recorded.
    """

    @property
    def requests(self) -> RequestTable:
        """The requests as they were given."""
        ...

    @property
    def instance(self) -> Instance:
        """The instance that ran."""
        ...

    @property
    def finished(self) -> bool:
        """Whether every request has finished."""
        ...

    @property
    def time(self) -> float:
        """The present [time]."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches executed."""
        ...

    @property
    def num_arrived(self) -> int:
        """Requests that have arrived."""
        ...

    @property
    def grid(self) -> NDArray[np.float64]:
        """Times at which the state was sampled, shape (G,)."""
        ...

    def sampled(self) -> Mapping[str, NDArray]:
        """Return each of :data:`HELD` at the times of the grid, shape (G,)."""
        ...

    def steps(self) -> tuple[NDArray[np.float64], Mapping[str, NDArray]]:
        """Return the boundaries, and what holds from each on: :data:`HELD` by name."""
        ...

    def request_records(self) -> Records:
        """Return one row per request, in table order."""
        ...

    def batch_records(self) -> Records:
        """Return one row per batch; the file holds the columns that the kind declares."""
        ...

    def event_records(self) -> Records:
        """Return one row per event."""
        ...

    def memory_event_records(self) -> Records:
        """Return one row per allocation or release of KV."""
        ...

    def spans(self) -> Records:
        """Return the consecutive batches that executed a request, one row per span."""
        ...

    def inter_token_latencies(self, first: int) -> tuple[NDArray[np.float64], NDArray]:
        """Return latencies [time] between tokens, and how often each occurs, from row ``first``."""
        ...

    def totals(self) -> Mapping[str, float]:
        """Return the totals of :data:`serving.TOTALS` that the engine knows."""
        ...

    def fragmentation(self) -> Mapping[str, float]:
        """Return the KV that is wasted, by sense."""
        ...
