"""Memory layout of the V1 engine: what the compiled kernel reads and writes.

Everything an engine knows between two iterations of its loop is in these arrays, so saving a run is
saving them.
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
    f"{CLOCK_FLOATS} device_free last_end",
    f"{CLOCK_INTS} head tail hold_head hold_tail held late_head deferred unfinished idle announce"
    " capacity_bound executed last_prefill free hashed loading abort_next queued queue_first"
    " in_transfer step_evictions evicted_blocks tokens_computed queried closed max_concurrency"
    " ready ends_then",
)
"""Scalars of an engine at rest. ``device_free`` is when the last batch decided so far ends.
``closed`` says that some clients wait for answers; ``ready`` requests may be sent, at most
``max_concurrency`` are sent and not ended; ``last_end`` is when requests last ended, ``ends_then``
of them at once.
``announce`` says that a request ended since the last schedule() call. ``deferred`` counts those in
the waiting queue that it passed over. ``held`` requests have
blocks while the connector brings their prompts, from ``hold_head`` on; they count as waiting too.
``late_head`` begins a list of those that were aborted meanwhile.
``queued`` batches are in flight, the oldest in slot
``queue_first`` of the ring. ``free`` blocks can be taken."""

SETTINGS = record(
    SETTING_FLOATS,
    f"{SETTING_INTS} num_blocks max_num_seqs max_active_seqs token_budget max_model_len chunked"
    " long_prefill adaptive watermark_blocks reserve_full caching by_priority asynchronous"
    " pipeline in_flight stop_token drafts draft_slots lookahead num_accepts interval"
    " free_to_tail lone_threshold priority_goes_on steps_back remote free_recompute connector"
    " track_blocks hash_ahead shared",
)
"""The instance as the kernel sees it. ``shared`` says that what requests find in the
cache was stated. ``track_blocks`` says that blocks are told apart: for the prefix cache, or because
the log shows the order of the free queue."""

ADDRESSES = record(
    "",
    f"{ADDRESS_INTS} blocks_at tables_at chains_at first_block_at last_block_at running_at batch_at"
    " plan_at accepts_at aborts_at num_aborts crc_table_at ready_at order_at turns_at thinks_at"
    " level_last_at level_tree_at leaves",
)
"""Where the tables of this engine lie, and their sizes."""

STATE = np.dtype([*CLOCK.descr, *SETTINGS.descr, *ADDRESSES.descr])
"""The one argument of every compiled function."""

REQUEST = record(
    REQUEST_FLOATS,
    f"{REQUEST_INTS} limit rank priority cached in_flight placeholders spec stale eligible"
    " is_chunk is_deferred decodes has_draft verified seen is_prefilling first_hits previous"
    " next table_at chain_at found level",
)
"""One request. ``level`` numbers its priority, and ``rank`` orders those of a level by arrival.
``limit`` is max_tokens;
``placeholders`` are tokens that batches in flight will bring; ``spec`` drafts wait to be verified;
of the tokens in flight ``stale`` ones were scheduled before a preemption; ``eligible`` is the first
step that may decode it again. ``is_chunk``: its last step did not reach its end. ``decodes`` and
``has_draft`` say whether it has sampled since its last admission. ``verified`` counts
verifications. ``seen``: the connector brought its prompt before. ``first_hits`` tokens were cached
when it was first admitted; ``found`` tokens are in the cache where that was stated."""

BLOCK = record("", "next previous references chain next_alike previous_alike")
"""One KV block: its place in the free queue, who holds it, the chain whose KV it has (-1: none),
and its place among the blocks of the same chain."""

MEMBER = record("", "request tokens samples drafts is_real")
"""One request in a batch. ``is_real``: its drafts are of a model, not padding."""

PLAN = record("end", "size row tokens")
"""One batch in flight: its end, members, row of the step log, tokens."""


class Connector(IntEnum):
    """How the KV of remote prefill comes in."""

    NONE = 0
    SYNC = 1
    ASYNC = 2


STUCK = 5
"""Why the kernel returned: nothing can be scheduled, and nothing will change that."""
