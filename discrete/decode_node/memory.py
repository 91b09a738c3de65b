"""Typed views of the tables from compiled code, by address.

An array passed from function to function costs Numba atomic reference counts at every step, which
is most of the time of a batch. The tables belong to the engine object, outlive every call, and are
reached from one record of scalars and addresses instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

from discrete.decode_node import layout
from serving.compilation import compiled

REAL = np.dtype([("value", np.float64)])
INDEX = np.dtype([("value", np.int64)])


def record_at(dtype: np.dtype) -> Any:
    """Return a compiled cast of an address to a record of ``dtype``."""
    record = from_dtype(dtype)

    @intrinsic
    def cast(typing_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(record))

        return record(types.int64), generate

    return cast


_request = record_at(layout.REQUEST)
_history = record_at(layout.HISTORY)
_batch = record_at(layout.BATCH)
_span = record_at(layout.SPAN)
_event = record_at(layout.EVENT)
_sample = record_at(layout.SAMPLE)
_real = record_at(REAL)
_index = record_at(INDEX)

REQUEST_BYTES = layout.REQUEST.itemsize
HISTORY_BYTES = layout.HISTORY.itemsize
BATCH_BYTES = layout.BATCH.itemsize
SPAN_BYTES = layout.SPAN.itemsize
EVENT_BYTES = layout.EVENT.itemsize
SAMPLE_BYTES = layout.SAMPLE.itemsize


@compiled
def request(s, r):
    """Return the hot record of request ``r``."""
    return _request(s.requests_at + r * REQUEST_BYTES)


@compiled
def history(s, r):
    """Return the cold record of request ``r``."""
    return _history(s.history_at + r * HISTORY_BYTES)


@compiled
def arrival_time(s, r):
    """Return the arrival time of request ``r``."""
    return _real(s.arrivals_at + r * 8).value


@compiled
def write_arrival(s, r):
    """Fill the hot record of a request that has just arrived."""
    q = request(s, r)
    q.prefill = _index(s.prefills_at + r * 8).value
    q.decode = _index(s.decodes_at + r * 8).value
    q.progress = 0
    q.first_enter = q.first_token = q.completion = np.nan


@compiled
def waiting_slot(s, i):
    """Return slot ``i`` of the storage of WAITING."""
    return _index(s.waiting_at + i * 8)


@compiled
def user_key_slot(s, i):
    """Return the user's number for slot ``i`` of WAITING."""
    return _real(s.keys_at + i * 8)


@compiled
def ring_slot(s, batch):
    """Return the first of those who finish with ``batch``."""
    return _index(s.ring_at + (batch & s.ring_mask) * 8)


@compiled
def batch_row(s, i):
    """Return row ``i`` of the batch records."""
    return _batch(s.batches_at + i * BATCH_BYTES)


@compiled
def span_row(s, i):
    """Return row ``i`` of the execution spans."""
    return _span(s.spans_at + i * SPAN_BYTES)


@compiled
def event_row(s, i):
    """Return row ``i`` of the events."""
    return _event(s.events_at + i * EVENT_BYTES)


@compiled
def table_time(s, requests):
    """Return what the law's table adds for so many requests: ``BatchTimeLaw.table_time``."""
    size = s.table_size
    low, high, first = 0, size, _real(s.table_at).value
    if requests <= first:
        return _real(s.table_at + size * 8).value
    while high - low > 1:
        middle = (low + high) >> 1
        if _real(s.table_at + middle * 8).value <= requests:
            low = middle
        else:
            high = middle
    first = _real(s.table_at + low * 8).value
    time = _real(s.table_at + (size + low) * 8).value
    return _real(s.table_at + (2 * size + low) * 8).value * (requests - first) + time


@compiled
def grid_time(s, i):
    """Return time ``i`` of the sampling grid."""
    return _real(s.grid_at + i * 8).value


@compiled
def sample_row(s, i):
    """Return the sample at time ``i`` of the grid."""
    return _sample(s.samples_at + i * SAMPLE_BYTES)
