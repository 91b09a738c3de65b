"""Memory layout of the march of a server that computes its own prompts.

Requests that were never preempted are known by when they began to decode: all those of one *slot*
have their first decode in the same step, so that their age follows from the clock of decode steps
and a step is a few dot products over the slots. Whoever was preempted is a *parcel* of its own.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

UNLIMITED = 2**62
"""Steps [steps] of a march that nothing limits."""


def _dtype(floats: str, ints: str) -> np.dtype:
    fields = [(name, np.float64) for name in floats.split()]
    return np.dtype(fields + [(name, np.int64) for name in ints.split()])


CLOCK = _dtype(
    "now device_free arrived admitted completed running swapped memory evicted wasted taken moved"
    " credit tokens busy memory_time step_prefill step_attention step_known step_context step_fresh"
    " step_resumed step_taken step_held",
    "knot steps clock admissions pieces",
)
"""The scalars that a march changes.

``now`` [time] is when the next step is decided, ``device_free`` [time] when it can begin.
``arrived`` [requests] are known, ``admitted`` of them have begun, ``completed`` [requests] have
ended. ``running`` and ``swapped`` [requests] and ``memory`` [tokens] are those of the latest step.
``evicted`` [requests] were preempted and ``wasted`` [tokens] computed again, ``taken`` [tokens] of
KV were allocated so far, ``moved`` [tokens] between GPU and CPU since the last step. ``credit``
[decode steps] is what prompts have left for decodes. ``tokens`` counts all output, ``busy`` [time]
the time of steps, ``memory_time`` [token time] the KV in use over it. The ``step_...`` are of the
step that is being formed: prompt tokens, what the law needs to know of them, the requests that
start and start again [requests], and the KV that they take anew and hold [tokens]. ``steps``,
``admissions`` and ``pieces`` count the rows of these tables, ``clock`` the decode steps, ``knot``
is the piece of the arrival curve that holds ``now``."""

SETTINGS = _dtype(
    "kv_tokens reserve most_running step_tokens gap horizon end negligible"
    " prompt_tokens prompt_attention prompt_known prompt_context prompt_held least_again",
    "is_ahead prompts_apart swaps keeps_prefixes block_size most_steps",
)
"""Server and question as the kernels see them.

``prompt_...`` is what the prompt of a request takes, see :class:`fluid.prompt_server.Life`, and
``least_again`` [tokens] what a preempted request computes again at least. Arrivals stop at
``horizon`` [time], the march at the first decision at or after ``end`` [time]. Less than
``negligible`` [requests] neither starts nor is preempted."""

ADDRESSES = _dtype(
    "",
    "rows_at masses_at ends_at alive_at admissions_at pieces_at queues_at parcels_at lanes_at"
    " again_at knots_at cumulative_at law_at scatter_at parts_at"
    " rows_size pieces_size parcels_size ages knots_size",
)
"""Where the tables lie, and how long they are. Rows, masses, ends and admissions are as many.

``scatter_at`` is 0 where only the mean of the prompt tokens of a step matters; ``parts_at`` has
room for the numbers that stand for them, see :mod:`fluid.prompt_server.lumps`."""

WORKSPACE = np.dtype([*CLOCK.descr, *SETTINGS.descr, *ADDRESSES.descr])
"""The one argument of the compiled kernels."""

QUEUE = _dtype("", "head tail")
"""A queue of parcels, at the places ``head`` to ``tail`` - 1 of its storage."""

RESUMED, PREEMPTED, SWAPPED = range(3)
"""The queues. RESUMED: run again, in order of entry. PREEMPTED: the next to run is the last.
SWAPPED: the next to run is the first."""
QUEUES = 3
"""Queues [queues]."""

MASS, SLOT, BIRTH, ENTRY, AGE, BEFORE, FREED, AHEAD = range(8)
"""Columns of a parcel.

MASS: requests at arrival. SLOT: the slot in which they decoded first. BIRTH: the decode step in
which they would have had age 1, had they never stopped. ENTRY: decode step of the latest start.
AGE: tokens at the latest stop. BEFORE: their birth before it. FREED, AHEAD [tokens]: KV that had
been allocated at the stop, and that was free before theirs."""
COLUMNS = 8
"""Columns of a parcel [columns]."""

A_FROM, A_UNTIL, A_ADMITTED, A_FIRST_TOKEN, A_SLOT = range(5)
"""Columns of an admission: arrivals [requests] that began together, when, and their slot."""
ADMISSION_SIZE = 5
"""Columns of an admission [columns]."""

P_SLOT, P_MASS, P_AGE_FROM, P_AGE_TO, P_BIRTH, P_BEFORE = range(6)
"""Columns of a piece: requests of a slot that decoded from one age to another without a stop."""
PIECE_SIZE = 6
"""Columns of a piece [columns]."""


class Answer(IntEnum):
    """What the compiled march answers.

    DONE: the end is reached, or nobody is left and nobody will arrive. FULL: the next step may not
    fit into the tables; enlarge them and call again. STEP_LIMIT: ``most_steps`` are made. STALLED:
    a step took no time. STUCK: nobody runs, and who waits can never start.
    """

    DONE = 0
    FULL = 1
    STEP_LIMIT = 2
    STALLED = 3
    STUCK = 4
