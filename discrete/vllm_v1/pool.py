"""KV blocks: the free queue, reference counts, and the prefix cache, block by block.

The free queue is a linked list through the blocks themselves; its two ends are the extra blocks
``num_blocks`` (before the first) and ``num_blocks + 1`` (after the last). Block 0 is vLLM's null
block and never in use. Where blocks are not told apart only their number is kept.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm.writing import log
from discrete.vllm_v1.memory import block, chain_of, first_alike, last_alike, table_entry
from serving.compilation import compiled


@compiled
def note(s, time, kind, r, q):
    """Write an event of a request, with the blocks in use right before it."""
    if s.record_events:
        s.blocks_used = s.num_blocks - 1 - s.free
        log(s, time, kind, r, q.generated)


@compiled
def _unlink(s, b):
    here = block(s, b)
    block(s, here.previous).next = here.next
    block(s, here.next).previous = here.previous


@compiled
def _link_after(s, b, before):
    here, left = block(s, b), block(s, before)
    here.previous, here.next = before, left.next
    block(s, left.next).previous = b
    left.next = b


@compiled
def _forget(s, b):
    """Take the oldest or any other block of a chain out of the cache."""
    here = block(s, b)
    chain, before, after = here.chain, here.previous_alike, here.next_alike
    if before == NOBODY:
        first_alike(s, chain).value = after
        if after == NOBODY:
            s.hashed -= 1
    else:
        block(s, before).next_alike = after
    if after == NOBODY:
        last_alike(s, chain).value = before
    else:
        block(s, after).previous_alike = before
    here.chain = NOBODY


@compiled
def _remember(s, b, chain):
    """Put a block into the cache, after those that hold the same."""
    here, newest = block(s, b), last_alike(s, chain)
    here.chain, here.previous_alike, here.next_alike = chain, newest.value, NOBODY
    if newest.value == NOBODY:
        first_alike(s, chain).value = b
        s.hashed += 1
    else:
        block(s, newest.value).next_alike = b
    newest.value = b


@compiled
def take(s, q, count):
    """Give a request so many blocks more, those that the free queue has first."""
    if s.track_blocks:
        for i in range(q.blocks, q.blocks + count):
            b = block(s, s.num_blocks).next
            _unlink(s, b)
            here = block(s, b)
            if here.chain != NOBODY:
                _forget(s, b)
                s.step_evictions += 1
            here.references = 1
            table_entry(s, q, i).value = b
    q.blocks += count
    s.free -= count


@compiled
def release(s, q):
    """Take all blocks from a request, the last one first.

    Those that nobody holds any more and that the cache does not know go to the front of the free
    queue, the others to its end. Older versions put them all at the end.
    """
    if s.track_blocks:
        front = s.num_blocks
        for i in range(q.blocks - 1, -1, -1):
            b = table_entry(s, q, i).value
            here = block(s, b)
            here.references -= 1
            if here.references > 0:
                continue
            s.free += 1
            if here.chain == NOBODY and not s.free_to_tail:
                _link_after(s, b, front)
                front = b
            else:
                _link_after(s, b, block(s, s.num_blocks + 1).previous)
    else:
        s.free += q.blocks
    q.blocks = 0
    q.cached = 0


@compiled
def cacheable(s, q):
    """Return how many blocks of a request have a name in the cache."""
    return (q.length - s.hash_ahead) // s.block_size


@compiled
def cache(s, q, tokens):
    """Let the cache know the full blocks of a request up to so many tokens."""
    known = min(tokens, q.length - s.hash_ahead)
    if not s.caching or known < (q.cached + 1) * s.block_size:
        return
    full = known // s.block_size
    for i in range(q.cached, full):
        _remember(s, table_entry(s, q, i).value, chain_of(s, q, i))
    q.cached = full


@compiled
def look_up(s, q):
    """Return how many blocks of a request the cache has, from the first on, and how many idle.

    A token at least must be computed. An idle block is held by nobody; taking it into use costs a
    free block.
    """
    hits = idle = 0
    if s.caching:
        most = min((q.length - 1) // s.block_size, cacheable(s, q))
        while hits < most:
            b = first_alike(s, chain_of(s, q, hits)).value
            if b == NOBODY:
                break
            idle += block(s, b).references == 0
            hits += 1
    return hits, idle


@compiled
def touch(s, q, hits):
    """Give a request the blocks that :func:`look_up` found."""
    for i in range(hits):
        b = first_alike(s, chain_of(s, q, i)).value
        here = block(s, b)
        if here.references == 0:
            _unlink(s, b)
            s.free -= 1
        here.references += 1
        table_entry(s, q, i).value = b
    q.blocks = hits
    q.cached = hits
