"""What the iteration-clock kernel carries: the layout of its vectors, and the arrival curve."""

from __future__ import annotations

import numpy as np

from serving.compilation import compiled

# What an instance and a workload are to the kernel: a float64 vector.
(
    M_TOTAL,
    BUDGET,
    THRESHOLD,
    D_0,
    D_KV,
    D_EXTRA,
    D_SWAP,
    SACRIFICE,
    HORIZON,
    END,
    BATCHES,
    NEGLIGIBLE,
) = range(12)
SPEC_SIZE = 12

# What the kernel carries from call to call besides the queues: a float64 vector.
(
    NOW,
    SEEN,
    ARRIVED,
    COMPLETED,
    RUNNING,
    MEMORY,
    SWAPPED,
    MOVED,
    OWED_TOKENS,
    OWED_REQUESTS,
    EVICTED,
    WASTED,
    USEFUL,
    THETA,
    TOKENS,
    KNOT,
) = range(16)
STATE_SIZE = 16

# One row per step.
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
ROW_SIZE = 10

# One sample per parcel and step with completions; first token and finish are positions on the
# iteration clock theta (batches executed), which the rows translate into times. A negative length
# marks a gap between two tokens instead: from S_FIRST_TOKEN to S_FINISH.
S_WEIGHT, S_FROM, S_UNTIL, S_ADMITTED, S_FIRST_TOKEN, S_FINISH, S_LENGTH = range(7)
SAMPLE_SIZE = 7

# Sums may be re-ordered to vectorise; infinities and NaN keep their meaning.
REORDER = {"reassoc", "contract", "nsz"}


@compiled
def table_time(law_table, requests):
    """Return what the law's table adds for so many requests: ``BatchTimeLaw.table_time``.

    Parameters
    ----------
    law_table : shape (3, S)
        First requests, time and slope of each piece; S may be 0.
    requests
        Mean requests of a batch.
    """
    size = law_table.shape[1]
    if size == 0:
        return 0.0
    if requests <= law_table[0, 0]:
        return law_table[1, 0]
    piece = size - 1
    while law_table[0, piece] > requests:
        piece -= 1
    return law_table[2, piece] * (requests - law_table[0, piece]) + law_table[1, piece]


FINISHED, ROWS_FULL, SAMPLES_FULL, STALLED = range(4)


@compiled
def arrivals_by(t, state, knots, cumulative):
    """Return the cumulative curve at ``t``; a cursor in ``state`` makes it O(1) amortised."""
    k = int(state[KNOT])
    while k + 1 < knots.size and knots[k + 1] <= t:
        k += 1
    state[KNOT] = k
    if k + 1 == knots.size or t <= knots[k]:
        return cumulative[k]
    rise = (cumulative[k + 1] - cumulative[k]) / (knots[k + 1] - knots[k])
    return cumulative[k] + (t - knots[k]) * rise


@compiled
def next_arrival(state, knots, cumulative):
    """Return the first time >= now at which the curve rises again; infinity if never."""
    for k in range(int(state[KNOT]), knots.size - 1):
        if cumulative[k + 1] > max(cumulative[k], state[ARRIVED]):
            return max(state[NOW], knots[k] if knots[k + 1] > knots[k] else knots[k + 1])
    return np.inf


@compiled
def is_idle(running, arrived):
    """Say whether what is left in RUNNING is rounding only."""
    return running <= 1e-12 * max(1.0, arrived)
