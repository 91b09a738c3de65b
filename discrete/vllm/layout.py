"""Memory layout that the vLLM engines share: one row per schedule() call, and what goes with it.

Times are float64 [time], counts and tokens int64. -1 is "nobody" or "never" in every link.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

NOBODY = -1
UNLIMITED = 2**62

FUEL = 1_000_000
"""Units of work between two looks at the keyboard, some tens of milliseconds."""

PAUSE, ROWS_FULL = 3, 4
"""Why a kernel returned, besides the reasons of :class:`discrete.Stop`: the caller is to look at
the keyboard, or to enlarge or drain a sink."""


def record(floats: str, ints: str) -> np.dtype:
    """Return a record of named float64 and int64 fields."""
    fields = [(name, np.float64) for name in floats.split()]
    return np.dtype(fields + [(name, np.int64) for name in ints.split()])


CLOCK_FLOATS = "time busy memory_time blocked_time"
CLOCK_INTS = (
    "steps committed arrived finished left evicted running waiting swapped blocks_used"
    " prefill_computed lost_tokens last_emitting"
    " rows decisions words outcomes spans events samples"
)
"""Scalars of every vLLM engine at rest. ``steps`` counts schedule() calls and ``committed`` those
whose output was applied. ``left`` counts the finished, the aborted and the ignored. The sinks
``rows`` to ``samples`` hold so many entries."""

SETTING_FLOATS = "cpu_gap"
SETTING_INTS = "block_size record_steps record_events log_decisions extended"
"""Settings that every vLLM engine has."""

ADDRESS_INTS = (
    "requests_at arrivals_at rows_at decisions_at words_at outcomes_at spans_at events_at grid_at"
    " samples_at law_at total rows_size decisions_size words_size outcomes_size spans_size"
    " events_size grid_size"
)
"""Where the shared tables lie, and their sizes."""

REQUEST_FLOATS = "first_sched first_token done"
REQUEST_INTS = (
    "prompt output length generated computed status preemptions swap_ins recomputed hit_tokens"
    " accepted blocks span_first span_last span_token"
)
"""Fields of a request that the shared functions read. ``length`` is prompt and generated tokens,
``computed`` those whose KV is there or scheduled, ``blocks`` those it holds. ``span_first`` and
``span_last`` are the first and the last step of the present span of tokens."""

STEP = record(
    "scheduled start duration end",
    "waiting running swapped size prefills prefill_tokens decode_tokens context blocks cpu_blocks"
    " evicted left running_after swapped_after blocks_after emitting",
)
"""One schedule() call: ``waiting`` to ``cpu_blocks`` right after it, ``left`` to ``emitting`` right
after its output was applied, the last of which counts who got tokens. ``scheduled`` is when it was
decided, ``start`` when its batch began."""

DECISION = record(
    "",
    "preempted swapped_out swapped_in scheduled hits ignored waiting_ids running_ids swapped_ids"
    " aborted finished drafts blocks_out blocks_in hashes evictions crc",
)
"""What only the decision log shows of a schedule() call: lengths of its lists, whose members follow
one another in the sink ``words`` (up to ``swapped_ids``) and in ``outcomes`` (the next three)."""

SPAN = record("", "request first_batch last_batch first_token")
"""Consecutive steps in which a request got tokens; ``first_token`` counts its tokens before."""

EVENT = record("time", "kind request decoded memory")
"""One transition of one request; ``memory`` is the KV in use before it [tokens]."""

SAMPLE = record("duration", "running swapped left evicted blocks size tokens")
"""The state at one time of a sampling grid."""


class Status(IntEnum):
    """Where a request is."""

    FUTURE = 0
    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    FINISHED = 4
    ABORTED = 5
    IGNORED = 6
    SWAPPED = 7
    LOADING = 8
    LOADED = 9


STATUS_WORDS = {
    Status.FINISHED: "finished",
    Status.ABORTED: "aborted",
    Status.IGNORED: "ignored",
}
"""Words of the request log; everyone else is ``pending``."""


class Event(IntEnum):
    """Event types, in the words of the event file."""

    ARRIVE = 0
    ADMIT = 1
    PREEMPT = 2
    SWAP_OUT = 3
    SWAP_IN = 4
    ABORT = 5
    IGNORE = 6
    COMPLETE = 7


def status_words(status: NDArray[np.int64]) -> NDArray:
    """Return where requests ended, in the words of the request log."""
    words = np.full(status.size, "pending", object)
    for code, word in STATUS_WORDS.items():
        words[status == code] = word
    return words
