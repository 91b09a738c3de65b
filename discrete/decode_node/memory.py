"""The tables of a decode node, from compiled code: the engine object owns them all.

Each is a function of the state and a number: that of a request, a batch, a slot.
"""

from __future__ import annotations

import numpy as np

from discrete.decode_node import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, REAL, real_at, record_at, table

request = table("requests", layout.REQUEST)
"""The hot record of a request."""

history = table("history", layout.HISTORY)
"""The cold record of a request."""

waiting_slot = table("waiting", INDEX)
"""A slot of the storage of WAITING."""

user_key_slot = table("keys", REAL)
"""The user's number for a slot of WAITING."""

batch_row = table("batches", layout.BATCH)
"""A row of the batch records."""

span_row = table("spans", layout.SPAN)
"""A row of the execution spans."""

event_row = table("events", layout.EVENT)
"""A row of the events."""

sample_row = table("samples", layout.SAMPLE)
"""The sample at a time of the grid."""

_index = record_at(INDEX)


@compiled
def arrival_time(s, r):
    """Return the arrival time of request ``r``."""
    return real_at(s.arrivals_at, r)


@compiled
def prefill_length(s, r):
    """Return the prompt of request ``r`` [tokens]."""
    return _index(s.prefills_at + r * 8).value


@compiled
def write_arrival(s, r):
    """Fill the hot record of a request that has just arrived."""
    q = request(s, r)
    q.prefill = prefill_length(s, r)
    q.decode = _index(s.decodes_at + r * 8).value
    q.progress = 0
    q.first_enter = q.first_token = q.completion = np.nan


@compiled
def ring_slot(s, batch):
    """Return the first of those who finish with ``batch``."""
    return _index(s.ring_at + (batch & s.ring_mask) * 8)


@compiled
def grid_time(s, i):
    """Return time ``i`` of the sampling grid."""
    return real_at(s.grid_at, i)
