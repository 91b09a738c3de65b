"""The tables of the V0 engine, from compiled code: the engine object owns them all."""

from __future__ import annotations

from discrete.vllm.memory import number_at
from discrete.vllm_v0 import layout
from serving.compilation import compiled
from serving.compiled_memory import record_at

_request = record_at(layout.REQUEST)
REQUEST_BYTES = layout.REQUEST.itemsize


@compiled
def request(s, r):
    """Return the record of request ``r``."""
    return _request(s.requests_at + r * REQUEST_BYTES)


@compiled
def running(s, i):
    """Return slot ``i`` of RUNNING."""
    return number_at(s.running_at, i)


@compiled
def count_of(s, group):
    """Return how many requests a list of the present schedule() call has; it can be written to."""
    return number_at(s.counts_at, group)


@compiled
def entry(s, group, i):
    """Return slot ``i`` of a list of the present schedule() call."""
    return number_at(s.lists_at, group * s.capacity + i)


@compiled
def dropped(s, i):
    """Return who was the ``i``-th to be dropped from the waiting queue in this call."""
    return number_at(s.dropped_at, i).value


@compiled
def dropped_swapped(s, i):
    """Return who was the ``i``-th to be dropped from the swapped in this call."""
    return number_at(s.dropped_at, s.total - 1 - i).value
