"""The tables that the vLLM engines share, from compiled code: the engine object owns them all.

Each is a function of the state and a number.
"""

from __future__ import annotations

from discrete.vllm import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, real_at, record_at, table

step_row = table("rows", layout.STEP)
"""A row of the steps."""

decision_row = table("decisions", layout.DECISION)
"""A row of the decisions."""

span_row = table("spans", layout.SPAN)
"""A row of the spans."""

event_row = table("events", layout.EVENT)
"""A row of the events."""

sample_row = table("samples", layout.SAMPLE)
"""The sample at a time of the grid."""

_index = record_at(INDEX)


@compiled
def number_at(address, i):
    """Return entry ``i`` of the int64 array at ``address``; it can be written to."""
    return _index(address + i * 8)


@compiled
def arrival_time(s, r):
    """Return the arrival time of request ``r``."""
    return real_at(s.arrivals_at, r)


@compiled
def grid_time(s, i):
    """Return time ``i`` of the sampling grid."""
    return real_at(s.grid_at, i)
