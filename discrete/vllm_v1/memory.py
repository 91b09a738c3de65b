"""The tables of the V1 engine, from compiled code: the engine object owns them all.

Each is a function of the state and a number: that of a request, a block, a chain, a slot.
"""

from __future__ import annotations

import numpy as np

from discrete.vllm_v1 import layout
from serving.compilation import compiled
from serving.compiled_memory import INDEX, table

SMALL = np.dtype([("value", np.int32)])

request = table("requests", layout.REQUEST)
"""The record of a request."""

block = table("blocks", layout.BLOCK)
"""The record of a block."""

first_alike = table("first_block", SMALL)
"""The slot of the oldest block of a chain; -1 where there is none."""

last_alike = table("last_block", SMALL)
"""The slot of the newest block of a chain."""

running = table("running", INDEX)
"""A slot of RUNNING."""

plan = table("plan", layout.PLAN)
"""The batch in a slot of the ring."""

_table_entry = table("tables", SMALL)
_chain = table("chains", SMALL)
_member = table("batch", layout.MEMBER)


@compiled
def table_entry(s, q, i):
    """Return entry ``i`` of the block table of a request."""
    return _table_entry(s, q.table_at + i)


@compiled
def chain_of(s, q, i):
    """Return the chain of block ``i`` of a request: equal chains have equal prefixes."""
    return _chain(s, q.chain_at + i).value


@compiled
def member(s, slot, i):
    """Return member ``i`` of the batch in a slot of the ring."""
    return _member(s, slot * s.max_num_seqs + i)
