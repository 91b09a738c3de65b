"""The tables of a decode node, from compiled code: the engine object owns them all."""

from __future__ import annotations

import numpy as np

from discrete.decode_node import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, REAL, real_at, record_at

_request = record_at(layout.REQUEST)
_history = record_at(layout.HISTORY)
_batch = record_at(layout.BATCH)
_span = record_at(layout.SPAN)
_event = record_at(layout.EVENT)
_sample = record_at(layout.SAMPLE)
_index = record_at(INDEX)
_real = record_at(REAL)

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
    return real_at(s.arrivals_at, r)


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
def grid_time(s, i):
    """Return time ``i`` of the sampling grid."""
    return real_at(s.grid_at, i)


@compiled
def sample_row(s, i):
    """Return the sample at time ``i`` of the grid."""
    return _sample(s.samples_at + i * SAMPLE_BYTES)
