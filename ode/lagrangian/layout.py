"""Memory layout of the iteration clock: what its compiled kernels read and write.

Everything a march knows at a batch boundary is in one record, WORKSPACE, and in the tables whose
addresses the record holds; :class:`ode.lagrangian.workspace.Workspace` owns these tables.
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
    "now seen arrived completed running memory swapped moved owed_tokens owed_requests"
    " evicted wasted useful theta tokens sample_unit sample_debt gap_unit gap_debt",
    "knot steps samples",
)
"""The scalars that a march changes; :func:`ode.lagrangian.seed.seed` sets all of them.

``now`` [time] is the boundary reached; the requests that arrived up to ``seen`` [time] have joined.
``theta`` [batches] counts the batches executed, ``knot`` is the piece of the arrival curve that
holds ``now``, ``steps`` and ``samples`` count the rows and the latency samples written.
``arrived``, ``completed``, ``evicted``, ``running`` and ``swapped`` are [requests]. ``memory``
[tokens] is the KV cache that RUNNING holds, ``moved`` [tokens] was swapped since the last batch.
``owed_tokens`` and ``owed_requests`` are work that a step of several batches has executed for its
arrivals and that the next step pays for. ``wasted`` [tokens] is the KV cache lost to sacrifices,
``useful`` [tokens] the batch tokens that brought a new token, ``tokens`` [tokens] all output.
Latency samples of less than ``sample_unit`` [requests], and gaps between tokens of less than
``gap_unit`` [tokens], are gathered in ``sample_debt`` and ``gap_debt`` until they are one."""

SETTINGS = _dtype(
    "M_total B admission_threshold horizon end batches_per_step negligible",
    "sacrifice classes most_steps",
)
"""The instance and the question as the kernels see them.

``B`` is infinite where nothing limits a batch. Arrivals stop at ``horizon`` [time], the march stops
at the first boundary at or after ``end`` [time] and after ``most_steps``. ``classes`` counts the
tables of lengths: the whole mix, and classes of which who is there at time 0 may be. Less than
``negligible`` [tokens] is neither evicted nor admitted."""

ADDRESSES = _dtype(
    "",
    "queues_at spare_at cost_at before_at piece_at spare_row_at rows_at samples_at"
    " knots_at cumulative_at tables_at lanes_at law_at"
    " capacity places_needed rows_size samples_size knots_size tables_size lanes_size",
)
"""Where the tables lie, and how long they are.

Each queue and the spare storage have ``capacity`` places for parcels; a kernel that answers
QUEUE_FULL leaves in ``places_needed`` how many its next step may need. With ``rows_size`` 0 a march
keeps no rows, with ``samples_size`` 0 no latency samples."""

WORKSPACE = np.dtype([*CLOCK.descr, *SETTINGS.descr, *ADDRESSES.descr])
"""The one argument of the compiled kernels."""

QUEUE = _dtype("", "at extent head tail")
"""A queue of parcels: its storage, of which it uses ``extent`` places, and its two ends.

The parcels are at the places ``head`` to ``tail`` - 1, oldest first."""

RUNNING, WAITING, SWAPPED = range(3)
"""Places of the three queues in the table of queues."""

MASS, AGE, FURTHEST, ALIVE, PREFILL, FIRST_TOKEN, FROM, UNTIL, ADMITTED, LAST_TOKEN, OF = range(11)
"""Columns of a queue; a queue stores them one after the other, so that a step vectorises.

MASS: requests at arrival. AGE: tokens decoded since the last start. FURTHEST: tokens ever decoded.
ALIVE: requests alive. PREFILL [tokens]: ALIVE times their mean prefill. FIRST_TOKEN: position of
the first token on the iteration clock [batches], a mean, complete once FURTHEST >= 1.
FROM, UNTIL [time]: interval of arrival, negative for requests that were there before time 0.
ADMITTED [time]: first admission, negative before. LAST_TOKEN: position of the latest token on the
iteration clock [batches], kept while latencies are recorded. OF: class of requests, 0 for the
whole mix."""

COLUMNS = 11
"""Columns of a queue [columns]."""

HISTOGRAM_MASS, HISTOGRAM_AGE, HISTOGRAM_FURTHEST, HISTOGRAM_OF = range(4)
"""Columns of a histogram: requests alive, tokens decoded since the last start and ever, and their
class; without the last column all are of the whole mix."""

SURVIVE, HELD, WORK = 0, 2, 4
"""Columns of a mix table; the column after each is its forward difference."""
TABLE_COLUMNS = 6
"""Columns of a mix table [columns]."""

L_ALIVE, L_MEMORY, L_COST = range(3)
"""Rows of the lanes: requests and KV cache after the step, batch tokens during the step."""
LANES = 3
"""Rows of the lanes [rows]."""

(
    R_START,
    R_DURATION,
    R_RUNNING,
    R_SWAPPED,
    R_COMPLETED,
    R_MEMORY,
    R_TOKENS,
    R_SIZE,
    R_EVICTED,
    R_EMITTED,
) = range(10)
"""Columns of the rows, of which a step writes one."""
ROW_SIZE = 10
"""Columns of a row [columns]."""

S_WEIGHT, S_FROM, S_UNTIL, S_ADMITTED, S_FIRST_TOKEN, S_FINISH, S_LENGTH = range(7)
"""Columns of the latency samples, of which a step writes one per parcel with completions.

S_FIRST_TOKEN and S_FINISH are positions on the iteration clock theta [batches], which the rows
translate into times. A negative S_LENGTH marks the gap between two tokens at these positions."""

SAMPLE_SIZE = 7
"""Columns of a latency sample [columns]."""

REORDER = {"reassoc", "contract", "nsz"}
"""What a compiler may do to sums so that they vectorise; infinities and NaN keep their meaning."""


class Answer(IntEnum):
    """What a compiled kernel answers.

    DONE: the end is reached, or nobody is left and nobody will arrive. QUEUE_FULL, ROWS_FULL and
    SAMPLES_FULL: the next step may not fit; it has not begun, so enlarge and call again.
    STEP_LIMIT: ``most_steps`` are made. STALLED: a batch took no time. TOO_LONG: a histogram holds
    requests that are longer than any of the mix.
    """

    DONE = 0
    QUEUE_FULL = 1
    ROWS_FULL = 2
    SAMPLES_FULL = 3
    STEP_LIMIT = 4
    STALLED = 5
    TOO_LONG = 6
