"""Memory layout of the decode-node engine: what the compiled kernel reads and writes.

Everything an engine knows at a batch boundary is in these arrays, so saving a run is saving them.
Times are float64 [time], tokens and counts int64. -1 is "no request" in every link.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

NOBODY = -1
UNLIMITED = 2**62


def _dtype(floats: str, ints: str) -> np.dtype:
    fields = [(name, np.float64) for name in floats.split()]
    return np.dtype(fields + [(name, np.int64) for name in ints.split()])


CLOCK = _dtype(
    "time busy memory_time blocked_time",
    "batch arrived admitted_until completed evicted head tail running last_executing executing"
    " cost used sacrificed swapped_head swapped_tail swapped moved lost_tokens"
    " entries first_position batches spans events samples",
)
"""The scalars of a state at rest, right after a batch (completions gone, arrivals joined).
``executing`` members of RUNNING, up to ``last_executing``, made up the last batch and cost ``cost``
= sum(p + k + 1); ``used`` is RUNNING's KV. ``admitted_until`` and ``sacrificed`` are the two parts
of a FCFS queue. ``moved`` counts swapped tokens not yet paid for."""

SETTINGS = _dtype(
    "",
    "M_total B admission_limit sacrifice queue victim queue_address victim_address"
    " track_last_batch record_batches record_events",
)
"""The instance as the kernel sees it. ``admission_limit`` is the smallest integer not below
``admission_threshold * M_total``: ``used`` is an integer, so comparing with it is exact."""

ADDRESSES = _dtype(
    "",
    "requests_at history_at arrivals_at prefills_at decodes_at waiting_at keys_at ring_at random_at"
    " batches_at spans_at events_at grid_at samples_at law_at total ring_mask"
    " batches_size spans_size events_size grid_size",
)
"""Where the tables lie, and their sizes (the ring's is a power of two, ``ring_mask`` + 1)."""


STATE = np.dtype([*CLOCK.descr, *SETTINGS.descr, *ADDRESSES.descr])
"""The one argument of every compiled function."""

REQUEST = _dtype(
    "first_enter first_token completion",
    "prefill decode progress stay next previous later earlier",
)
"""The hot part of a request. ``next`` and ``previous`` link RUNNING, SWAPPED and the sacrificed;
``later`` and ``earlier`` link the requests that finish with the same batch. ``progress`` is k,
except while executing, when it is ``batch - k`` and thus need not be touched; ``stay`` is the
batch with which the present stay in the execution batch began. Blank until it arrives."""

HISTORY = _dtype(
    "since waiting executing swapped",
    "furthest last_batch entry position key priority length swaps sacrifices place",
)
"""The cold part of a request, written when it is evicted or sorted. ``last_batch`` is one more
than the last batch that executed it, 0 for never, kept only where a policy reads it."""

BATCH = _dtype(
    "start duration",
    "tokens size running swapped memory evicted completed memory_after",
)
"""One executed batch: what it held while it ran; ``completed`` and ``memory_after`` are right
after it."""

SPAN = _dtype("", "request first_batch last_batch first_token")
"""Consecutive batches that executed a request; ``first_token`` counts its tokens before them."""

EVENT = _dtype("time", "kind request decoded memory")
"""One transition of one request; ``memory`` is RUNNING's KV before it."""

SAMPLE = _dtype("duration", "running swapped completed evicted memory size tokens")
"""The state at one time of a sampling grid."""


class Queue(IntEnum):
    """How WAITING is ordered."""

    FCFS = 0
    KEYED = 1
    USER = 2


class Victim(IntEnum):
    """Who is evicted."""

    LIFO = 0
    FIFO = 1
    LRU = 2
    RANDOM = 3
    USER = 4


class Kind(IntEnum):
    """Event types, in the words of the run files."""

    ARRIVE = 0
    ADMIT = 1
    SWAP_OUT = 2
    SWAP_IN = 3
    SACRIFICE = 4
    COMPLETE = 5


class Place(IntEnum):
    """Where a request that was ever evicted is now; others are 0."""

    USUAL = 0
    SWAPPED = 1
    WAITING = 2


FUEL = 1_000_000
"""Units of work between two looks at the keyboard, some tens of milliseconds."""

PAUSE, SINK_FULL = 3, 4
"""Why the kernel returned, besides the reasons of :class:`discrete.Stop`: the caller is to look at
the keyboard, or to enlarge a sink."""
