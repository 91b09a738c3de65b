"""KV blocks: how many a request needs to begin, to go on, and to be moved, in each version."""

from __future__ import annotations

from discrete.vllm_v0.memory import request
from serving.compilation import compiled


@compiled
def free_blocks(s):
    """Return the free blocks of the GPU."""
    return s.num_gpu_blocks - s.blocks_used


@compiled
def _slots(q):
    """Return the tokens that have a place in a request's blocks; a decode's newest has none."""
    return q.length - q.decodes


@compiled
def blocks_to_begin(s, q):
    """Return the blocks of a whole prefill."""
    return (q.length + s.block_size - 1) // s.block_size


@compiled
def blocks_to_go_on(s, q):
    """Return the blocks that must be free before a running request may go on.

    It is one for a decode, even if its last block has room.
    """
    if s.is_old or q.decodes or q.length % s.block_size != 0:
        return 1
    return 0


@compiled
def blocks_to_move(s, q, back):
    """Return the blocks that must be free where a request is moved: the CPU, or ``back``."""
    if s.is_old:
        return q.blocks + (1 if back else 0)
    return blocks_to_go_on(s, q) + _slots(q) // s.block_size


@compiled
def append_slot(s, q):
    """Give the token that a decode is about to compute a place."""
    if q.decodes and _slots(q) % s.block_size == 0:
        q.blocks += 1
        s.blocks_used += 1


@compiled
def take_back_slot(s, q):
    """Undo :func:`append_slot`."""
    if q.decodes and _slots(q) % s.block_size == 0:
        q.blocks -= 1
        s.blocks_used -= 1


@compiled
def move_out(s, q):
    """Move the blocks of a request to the CPU."""
    s.blocks_used -= q.blocks
    s.cpu_used += q.blocks
    s.moved_out += q.blocks


@compiled
def move_in(s, q):
    """Move the blocks of a request to the GPU."""
    s.cpu_used -= q.blocks
    s.blocks_used += q.blocks
    s.moved_in += q.blocks


@compiled
def release(s, q):
    """Free the blocks of a request on the GPU."""
    s.blocks_used -= q.blocks
    q.blocks = 0


@compiled
def has_room(s, need):
    """Return whether so many blocks can be taken and the watermark stays free."""
    return free_blocks(s) - need >= s.watermark_blocks


@compiled
def never_fits(s, r):
    """Return whether a prefill is too large even for an empty node."""
    q = request(s, r)
    return s.num_gpu_blocks - blocks_to_begin(s, q) < s.watermark_blocks
