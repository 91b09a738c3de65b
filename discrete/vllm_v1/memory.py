"""The tables of the V1 engine, from compiled code: the engine object owns them all."""

from __future__ import annotations

import numpy as np

from discrete.vllm.memory import number_at
from discrete.vllm_v1 import layout
from serving.compilation import compiled
from serving.compiled_memory import record_at

SMALL = np.dtype([("value", np.int32)])

_request = record_at(layout.REQUEST)
_block = record_at(layout.BLOCK)
_member = record_at(layout.MEMBER)
_plan = record_at(layout.PLAN)
_small = record_at(SMALL)

REQUEST_BYTES = layout.REQUEST.itemsize
BLOCK_BYTES = layout.BLOCK.itemsize
MEMBER_BYTES = layout.MEMBER.itemsize
PLAN_BYTES = layout.PLAN.itemsize


@compiled
def request(s, r):
    """Return the record of request ``r``."""
    return _request(s.requests_at + r * REQUEST_BYTES)


@compiled
def block(s, b):
    """Return the record of block ``b``."""
    return _block(s.blocks_at + b * BLOCK_BYTES)


@compiled
def table_entry(s, q, i):
    """Return entry ``i`` of the block table of a request."""
    return _small(s.tables_at + (q.table_at + i) * 4)


@compiled
def chain_of(s, q, i):
    """Return the chain of block ``i`` of a request: equal chains have equal prefixes."""
    return _small(s.chains_at + (q.chain_at + i) * 4).value


@compiled
def first_alike(s, chain):
    """Return the slot of the oldest block of a chain; -1 where there is none."""
    return _small(s.first_block_at + chain * 4)


@compiled
def last_alike(s, chain):
    """Return the slot of the newest block of a chain."""
    return _small(s.last_block_at + chain * 4)


@compiled
def running(s, i):
    """Return slot ``i`` of RUNNING."""
    return number_at(s.running_at, i)


@compiled
def member(s, slot, i):
    """Return member ``i`` of the batch in a slot of the ring."""
    return _member(s.batch_at + (slot * s.max_num_seqs + i) * MEMBER_BYTES)


@compiled
def plan(s, slot):
    """Return the batch in a slot of the ring."""
    return _plan(s.plan_at + slot * PLAN_BYTES)
