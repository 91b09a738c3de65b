"""The tables that the vLLM engines share, from compiled code: the engine object owns them all."""

from __future__ import annotations

from discrete.vllm import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, REAL, real_at, record_at

_step = record_at(layout.STEP)
_decision = record_at(layout.DECISION)
_span = record_at(layout.SPAN)
_event = record_at(layout.EVENT)
_sample = record_at(layout.SAMPLE)
_index = record_at(INDEX)
_real = record_at(REAL)

STEP_BYTES = layout.STEP.itemsize
DECISION_BYTES = layout.DECISION.itemsize
SPAN_BYTES = layout.SPAN.itemsize
EVENT_BYTES = layout.EVENT.itemsize
SAMPLE_BYTES = layout.SAMPLE.itemsize


@compiled
def number_at(address, i):
    """Return entry ``i`` of the int64 array at ``address``; it can be written to."""
    return _index(address + i * 8)


@compiled
def arrival_time(s, r):
    """Return the arrival time of request ``r``."""
    return real_at(s.arrivals_at, r)


@compiled
def step_row(s, i):
    """Return row ``i`` of the steps."""
    return _step(s.rows_at + i * STEP_BYTES)


@compiled
def decision_row(s, i):
    """Return row ``i`` of the decisions."""
    return _decision(s.decisions_at + i * DECISION_BYTES)


@compiled
def span_row(s, i):
    """Return row ``i`` of the spans."""
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
