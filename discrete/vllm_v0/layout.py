"""Memory layout of the V0 engine: what the compiled kernel reads and writes.

Everything an engine knows between two iterations of its loop is in these arrays, so saving a run is
saving them. KV blocks are counted, never told apart: without a prefix cache no decision depends on
which blocks a request has.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from discrete.vllm.layout import (
    ADDRESS_INTS,
    CLOCK_FLOATS,
    CLOCK_INTS,
    REQUEST_FLOATS,
    REQUEST_INTS,
    SETTING_FLOATS,
    SETTING_INTS,
    record,
)

CLOCK = record(
    CLOCK_FLOATS,
    f"{CLOCK_INTS} fresh resumed swapped_head swapped_tail cpu_used idle last_progress mark"
    " mark_step",
)
"""Scalars of an engine at rest. The waiting queue is the preempted, linked from ``resumed`` on, and
then those from number ``fresh`` up to ``arrived``. ``cpu_used`` blocks on the CPU are taken.
``idle`` counts the schedule() calls in a row that did nothing; ``last_progress`` is the last call
that brought a token, dropped a request or found a new one; ``mark`` a digest of the state at call
``mark_step``, kept while there is no progress."""

SETTINGS = record(
    SETTING_FLOATS,
    f"{SETTING_INTS} num_gpu_blocks num_cpu_blocks max_num_seqs token_budget longest_prefill"
    " chunked swaps watermark_blocks remote free_recompute is_old",
)
"""The instance as the kernel sees it. A prefill of more than ``longest_prefill`` tokens is dropped;
``swaps`` is the preemption mode, ``is_old`` says that 0.5.4 decides."""

SCRATCH = record("", "budget seats context moved_out moved_in ignored lost")
"""What one schedule() call knows: tokens and sequences that may still be scheduled, KV of the batch
after the step, blocks moved, requests dropped from the waiting queue and from the swapped."""

ADDRESSES = record("", f"{ADDRESS_INTS} running_at lists_at counts_at dropped_at capacity")
"""Where the tables of this engine lie; a list has room for ``capacity`` requests."""

STATE = np.dtype([*CLOCK.descr, *SETTINGS.descr, *SCRATCH.descr, *ADDRESSES.descr])
"""The one argument of every compiled function."""

REQUEST = record(REQUEST_FLOATS, f"{REQUEST_INTS} limit decodes chunk next")
"""One request. It ends after ``limit`` tokens. ``decodes``: its KV was complete since its last
admission, so that it computes one token at a time; ``chunk`` tokens of it are in the batch;
``next`` links the preempted and the swapped."""


class Group(IntEnum):
    """Lists of one schedule() call; the first five make up the batch, in this order."""

    NEW = 0
    CHUNKS = 1
    BACK_CHUNKS = 2
    DECODES = 3
    BACK_DECODES = 4
    VICTIMS = 5


STUCK, EXHAUSTED = 5, 6
"""Why the kernel returned: nothing can be scheduled and nothing will change that, or the real
engine would die because the CPU has no room for a victim."""

STUCK_WORDS = {STUCK: "stuck", EXHAUSTED: "swap_space_exhausted"}
"""How such a run ended."""
