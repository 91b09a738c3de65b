"""The tables of a march, from compiled code, and what a step needs to know of its requests."""

from __future__ import annotations

import numpy as np

from ode.lagrangian.layout import ROW_SIZE
from ode.prompt_server.layout import (
    ADMISSION_SIZE,
    COLUMNS,
    MASS,
    PIECE_SIZE,
    QUEUE,
)
from serving.compilation import compiled
from serving.compiled_memory import matrix_at, record_at, vector_at

LANES = 5
"""Rows of :attr:`fluid.prompt_server.Life.lanes` [rows]."""

REORDER = {"reassoc", "contract", "nsz"}
"""What a compiler may do to sums so that they vectorise."""

_queue = record_at(QUEUE)


@compiled
def queue_of(w, number):
    """Return a queue of parcels."""
    return _queue(w.queues_at + number * 16)


@compiled
def parcels_of(w, number):
    """Return the storage of a queue, shape (parcels_size, COLUMNS)."""
    return matrix_at(w.parcels_at + number * w.parcels_size * COLUMNS * 8, w.parcels_size, COLUMNS)


@compiled
def row_of(w):
    """Return the row of the next step."""
    return row_at(w, w.steps)


@compiled
def row_at(w, k):
    """Return the row of step ``k``."""
    return vector_at(w.rows_at + k * ROW_SIZE * 8, ROW_SIZE)


@compiled
def masses_of(w):
    """Return the requests of each slot, at arrival; one slot more than rows."""
    return vector_at(w.masses_at, w.rows_size + 1)


@compiled
def lanes_of(w):
    """Return the lanes from the last age to the first, shape (LANES, ages)."""
    return matrix_at(w.lanes_at, LANES, w.ages)


@compiled
def lane(w, row, age):
    """Return a lane at an age; nobody is beyond the last."""
    last = w.ages - 1
    return lanes_of(w)[row, last - min(age, last)]


@compiled
def again(w, row, age):
    """Return KV (row 0) or blocks (row 1) [tokens] of those who start again at an age."""
    return matrix_at(w.again_at, 2, w.ages)[row, min(age, w.ages - 1)]


@compiled(fastmath=REORDER)
def _dots(masses, first, lanes, shift, count):
    alive, decodes, context, seats, blocks = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(np.uint64(count)):
        mass = masses[np.uint64(first) + i]
        at = np.uint64(shift) + i
        alive += mass * lanes[0, at]
        decodes += mass * lanes[1, at]
        context += mass * lanes[2, at]
        seats += mass * lanes[3, at]
        blocks += mass * lanes[4, at]
    return alive, decodes, context, seats, blocks


@compiled
def totals(w):
    """Return what the requests that run take of the next decode step.

    Returns
    -------
    alive, decodes, context, seats, blocks
        See :attr:`fluid.prompt_server.Life.lanes`.
    """
    first = max(0, w.clock + 2 - w.ages)
    shift = first - (w.clock + 2 - w.ages)
    found = _dots(masses_of(w), first, lanes_of(w), shift, w.clock + 1 - first)
    queue, parcels = queue_of(w, 0), parcels_of(w, 0)
    if queue.tail == queue.head:
        return found
    alive, decodes, context, seats, blocks = found
    for i in range(queue.head, queue.tail):
        age, mass = w.clock + 1 - np.int64(parcels[i, 2]), parcels[i, MASS]
        alive += mass * lane(w, 0, age)
        decodes += mass * lane(w, 1, age)
        context += mass * lane(w, 2, age)
        seats += mass * lane(w, 3, age)
        blocks += mass * lane(w, 4, age)
    return alive, decodes, context, seats, blocks


@compiled
def stopped(w, number):
    """Return how many of the requests [requests] of a queue outside RUNNING are still alive."""
    queue, parcels, alive = queue_of(w, number), parcels_of(w, number), 0.0
    for i in range(queue.head, queue.tail):
        alive += parcels[i, MASS] * lane(w, 0, np.int64(parcels[i, 4]))
    return alive


@compiled
def admissions_of(w):
    """Return the row of the next admission."""
    return vector_at(w.admissions_at + w.admissions * ADMISSION_SIZE * 8, ADMISSION_SIZE)


@compiled
def next_piece(w):
    """Return the row of the next piece, and count it."""
    w.pieces += 1
    return vector_at(w.pieces_at + (w.pieces - 1) * PIECE_SIZE * 8, PIECE_SIZE)
