"""The tables of the V0 engine, from compiled code: the engine object owns them all.

Each is a function of the state and a number.
"""

from __future__ import annotations

from discrete.vllm_v0 import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, table

request = table("requests", layout.REQUEST)
"""The record of a request."""

running = table("running", INDEX)
"""A slot of RUNNING."""

count_of = table("counts", INDEX)
"""How many requests a list of the present schedule() call has."""

_entry = table("lists", INDEX)
_dropped = table("dropped", INDEX)


@compiled
def entry(s, group, i):
    """Return slot ``i`` of a list of the present schedule() call."""
    return _entry(s, group * s.capacity + i)


@compiled
def dropped(s, i):
    """Return who was the ``i``-th to be dropped from the waiting queue in this call."""
    return _dropped(s, i).value


@compiled
def dropped_swapped(s, i):
    """Return who was the ``i``-th to be dropped from the swapped in this call."""
    return _dropped(s, s.total - 1 - i).value
