"""The tables of a workspace, from compiled code: a :class:`Workspace` object owns them all."""

from __future__ import annotations

from ode.lagrangian.layout import (
    COLUMNS,
    LANES,
    QUEUE,
    ROW_SIZE,
    RUNNING,
    SAMPLE_SIZE,
    SWAPPED,
    TABLE_COLUMNS,
    WAITING,
)
from serving.compilation import compiled
from serving.compiled_memory import matrix_at, record_at, vector_at

_queue = record_at(QUEUE)
QUEUE_BYTES = QUEUE.itemsize
ROW_BYTES = 8 * ROW_SIZE
SAMPLE_BYTES = 8 * SAMPLE_SIZE


@compiled
def running_of(w):
    """Return the queue of the requests that run."""
    return _queue(w.queues_at + RUNNING * QUEUE_BYTES)


@compiled
def waiting_of(w):
    """Return the queue of the requests that wait for their first or next start."""
    return _queue(w.queues_at + WAITING * QUEUE_BYTES)


@compiled
def swapped_of(w):
    """Return the queue of the requests whose KV cache was moved to the CPU."""
    return _queue(w.queues_at + SWAPPED * QUEUE_BYTES)


@compiled
def parcels_of(queue):
    """Return the columns of a queue, shape (COLUMNS, extent)."""
    return matrix_at(queue.at, COLUMNS, queue.extent)


@compiled
def piece_of(w):
    """Return the parcel on its way between two queues, shape (COLUMNS,)."""
    return vector_at(w.piece_at, COLUMNS)


@compiled
def tables_of(w):
    """Return the tables of the mix, see :func:`ode.lagrangian.parcels.mix_tables`."""
    return matrix_at(w.tables_at, w.tables_size, TABLE_COLUMNS)


@compiled
def tables_of_class(w, number):
    """Return the tables of a class of requests; 0 is the whole mix."""
    bytes_of_one = w.tables_size * TABLE_COLUMNS * 8
    return matrix_at(w.tables_at + number * bytes_of_one, w.tables_size, TABLE_COLUMNS)


@compiled
def tables_of_all(w):
    """Return the tables of the mix and of all classes, one below the other."""
    return matrix_at(w.tables_at, w.classes * w.tables_size, TABLE_COLUMNS)


@compiled
def lanes_of(w):
    """Return the lanes of the mix, see :func:`ode.lagrangian.parcels.mix_lanes`."""
    return matrix_at(w.lanes_at, LANES, w.lanes_size)


@compiled
def row_of(w):
    """Return the row of the next step, shape (ROW_SIZE,); a spare one where none are kept."""
    if w.rows_size == 0:
        return vector_at(w.spare_row_at, ROW_SIZE)
    return row_at(w, w.steps)


@compiled
def row_at(w, k):
    """Return the row of step ``k``, shape (ROW_SIZE,), where rows are kept."""
    return vector_at(w.rows_at + k * ROW_BYTES, ROW_SIZE)


@compiled
def next_sample(w):
    """Return the next latency sample, shape (SAMPLE_SIZE,), and count it."""
    w.samples += 1
    return vector_at(w.samples_at + (w.samples - 1) * SAMPLE_BYTES, SAMPLE_SIZE)
