"""The state at time 0 of the iteration clock, from what an observer sees of an instance."""

from __future__ import annotations

from ode.lagrangian.batch import execute
from ode.lagrangian.layout import (
    ADMITTED,
    AGE,
    ALIVE,
    FROM,
    FURTHEST,
    HELD,
    HISTOGRAM_AGE,
    HISTOGRAM_FURTHEST,
    HISTOGRAM_MASS,
    HISTOGRAM_OF,
    MASS,
    OF,
    PREFILL,
    ROW_SIZE,
    SURVIVE,
    UNTIL,
    Answer,
)
from ode.lagrangian.memory import (
    piece_of,
    running_of,
    swapped_of,
    tables_of,
    tables_of_class,
    waiting_of,
)
from ode.lagrangian.parcels import at, push_tail
from serving.compilation import compiled
from serving.compiled_memory import vector_at

DONE, QUEUE_FULL, TOO_LONG = int(Answer.DONE), int(Answer.QUEUE_FULL), int(Answer.TOO_LONG)

FIRST_EXTENT = 504
"""Places [parcels] that a queue uses at first, beyond four per parcel that it starts with."""


@compiled
def first_extent(parcels):
    """Return the places [parcels] that a queue uses at first if it starts with so many parcels."""
    return FIRST_EXTENT + 4 * parcels // 16 * 16


@compiled
def _clear(w):
    """Set the clock to time 0 of an empty instance."""
    w.now = w.seen = w.arrived = w.completed = w.running = w.memory = w.swapped = w.moved = 0.0
    w.owed_tokens = w.owed_requests = w.evicted = w.wasted = w.useful = w.theta = w.tokens = 0.0
    w.knot = w.steps = w.samples = 0
    w.sample_unit = w.sample_debt = w.gap_unit = w.gap_debt = 0.0


@compiled
def _empty(w, queue, parcels):
    """Empty a queue that is to hold so many parcels; say whether they fit, and one more."""
    queue.extent = min(w.capacity, first_extent(parcels))
    queue.head = queue.tail = queue.extent // 4
    if queue.extent - queue.tail > parcels:
        return True
    w.places_needed = first_extent(parcels)
    return False


@compiled
def _push_histogram(w, queue, histogram):
    """Append the rows of a histogram to a queue; nobody knows when these requests arrived.

    Returns
    -------
    ok, requests, memory
        Not ok if a row is longer than the mix; requests alive and KV cache held [tokens].
    """
    piece, has_classes = piece_of(w), histogram.shape[1] > HISTOGRAM_OF
    requests, memory = 0.0, 0.0
    for i in range(histogram.shape[0]):
        alive, age = histogram[i, HISTOGRAM_MASS], histogram[i, HISTOGRAM_AGE]
        furthest = histogram[i, HISTOGRAM_FURTHEST]
        if alive <= 0.0:
            continue
        number = int(histogram[i, HISTOGRAM_OF]) if has_classes else 0
        tables = tables_of_class(w, number)
        share = at(tables, SURVIVE, furthest)
        if share <= 0.0:
            return False, requests, memory
        piece[:] = 0.0
        piece[MASS] = alive / share
        piece[AGE] = age
        piece[FURTHEST] = furthest
        piece[ALIVE] = alive
        piece[PREFILL] = piece[MASS] * at(tables, HELD, furthest)
        piece[FROM] = piece[UNTIL] = -1.0
        piece[OF] = number
        push_tail(queue, piece)
        requests += alive
        memory += piece[PREFILL] + age * alive
    return True, requests, memory


@compiled
def _push_backlog(w, backlog):
    """Append fresh requests to WAITING as one parcel that arrives at time 0."""
    tables, piece = tables_of(w), piece_of(w)
    piece[:] = 0.0
    piece[MASS] = backlog / tables[0, SURVIVE]
    piece[ALIVE] = backlog
    piece[PREFILL] = piece[MASS] * tables[0, HELD]
    piece[ADMITTED] = -1.0
    push_tail(waiting_of(w), piece)


@compiled
def push_waiting(workspace, waiting):
    """Append fresh requests to WAITING behind those who are there, as arrivals at time 0.

    Parameters
    ----------
    workspace : shape (1,)
        Seeded, with room for as many parcels.
    waiting : shape (W, 2) [requests], []
        Requests, and their class; in the order of arrival.

    Returns
    -------
    int
        DONE, or QUEUE_FULL (enlarge the queues to ``places_needed``, seed and call again).
    """
    w = workspace[0]
    queue, piece = waiting_of(w), piece_of(w)
    if queue.extent - queue.tail <= len(waiting):
        w.places_needed = first_extent(2 * len(waiting))
        return QUEUE_FULL
    for i in range(len(waiting)):
        requests, number = waiting[i, 0], int(waiting[i, 1])
        piece[:] = 0.0
        piece[MASS] = piece[ALIVE] = requests
        piece[PREFILL] = requests * tables_of_class(w, number)[0, HELD]
        piece[ADMITTED] = -1.0
        piece[OF] = number
        push_tail(queue, piece)
    return DONE


@compiled
def seed(workspace, running, swapped, backlog, until_boundary):
    """Set the state of a workspace at time 0; whatever it held before is gone.

    The observer looks at an instance at time 0, in the middle of a batch or at a boundary, and
    tells what the instance held when that batch began: requests by the tokens they had then.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.lagrangian.layout.WORKSPACE`.
    running, swapped : shape (R, 3) or (R, 4) [requests, tokens, tokens], []
        Histograms: requests alive, age and furthest, see :class:`ode.InitialState`, and perhaps
        their class; oldest first.
    backlog : [requests]
        Fresh requests in WAITING, counted as arrivals at time 0.
    until_boundary : [time]
        Time still to go until the batch under way ends; 0 at a boundary or in an idle instance.

    Returns
    -------
    int
        DONE, QUEUE_FULL (enlarge the queues to ``places_needed`` and call again) or TOO_LONG (a
        row holds requests that are longer than any of the mix).

    Notes
    -----
    The batch under way executes the longest prefix of ``running`` within the budget, as every
    batch does, and its completions happen at its end. Then the march stands at ``now =
    until_boundary``, before the boundary's own decisions: :func:`ode.lagrangian.kernel.advance`
    first lets the arrivals between time 0 and ``until_boundary`` join WAITING behind the backlog,
    then evicts or admits. The batch under way adds to the requests completed and to the tokens,
    but no row and no batch: rows and the iteration clock begin at the boundary.
    """
    w = workspace[0]
    _clear(w)
    fits = _empty(w, running_of(w), len(running))
    fits = _empty(w, waiting_of(w), 1) and fits
    fits = _empty(w, swapped_of(w), len(swapped)) and fits
    if not fits:
        return QUEUE_FULL
    ok, w.running, w.memory = _push_histogram(w, running_of(w), running)
    if not ok:
        return TOO_LONG
    ok, w.swapped, _ = _push_histogram(w, swapped_of(w), swapped)
    if not ok:
        return TOO_LONG
    if backlog > 0.0:
        _push_backlog(w, backlog)
    if until_boundary > 0.0:
        execute(w, 1.0, vector_at(w.spare_row_at, ROW_SIZE))
        w.now = until_boundary
    return DONE
