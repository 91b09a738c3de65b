"""What a schedule() call leaves in the logs, and how long its batch takes."""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm.memory import decision_row, number_at, step_row
from discrete.vllm.writing import word
from discrete.vllm_v1.layout import Connector
from discrete.vllm_v1.memory import block, member, plan, request, running
from serving.batch_kernel import step_duration
from serving.compilation import compiled

NO_CONNECTOR = int(Connector.NONE)


@compiled
def _count(s, slot, row):
    """Sort the tokens of a batch into prefill and decode; return what the batch-time law needs."""
    prefill = decode = prefills = context = free = 0
    attention = begun = 0.0
    for i in range(plan(s, slot).size):
        each = member(s, slot, i)
        q = request(s, each.request)
        context += q.computed
        if q.decodes:
            decode += each.tokens
        else:
            prefills += 1
            prefill += each.tokens
            if q.preemptions > 0:
                q.recomputed += each.tokens
            if (
                s.remote
                and s.connector == NO_CONNECTOR
                and (q.preemptions == 0 or s.free_recompute)
            ):
                free += each.tokens
            else:
                before = q.computed - each.tokens
                attention += each.tokens * (before + (each.tokens + 1) / 2)
                begun += before
        if not q.first_sched == q.first_sched:
            q.first_sched = s.time
        each.is_real = q.has_draft
        if each.samples:
            q.decodes = q.has_draft = 1
    row.prefills, row.prefill_tokens, row.decode_tokens = prefills, prefill, decode
    row.context = context
    s.prefill_computed += prefill - free
    return free, attention, begun


@compiled
def duration_of(s, slot, row):
    """Return the duration [time] of a batch, and write what is in it into its row."""
    free, attention, begun = _count(s, slot, row)
    tokens = plan(s, slot).tokens
    if tokens == 0 or (s.remote and tokens == free):
        return 0.0
    return step_duration(
        s.law_at, row.decode_tokens, row.context, row.prefill_tokens - free, attention, begun, 0
    )


@compiled
def note_hits(s, slot, ran):
    """Count the tokens that admitted requests did not have to compute."""
    s.tokens_computed += plan(s, slot).tokens
    for i in range(ran, plan(s, slot).size):
        each = member(s, slot, i)
        q = request(s, each.request)
        found = q.computed - each.tokens
        q.hit_tokens += found
        if q.preemptions == 0:  # as vLLM counts queries and hits
            q.first_hits = found
            s.queried += q.length


@compiled
def _checksum(s):
    """Return the CRC-32 of the free queue, its block numbers as 32-bit integers in order."""
    crc, b = 0xFFFFFFFF, block(s, s.num_blocks).next
    while b < s.num_blocks:
        for shift in range(0, 32, 8):
            crc = number_at(s.crc_table_at, (crc ^ (b >> shift)) & 255).value ^ (crc >> 8)
        b = block(s, b).next
    return crc ^ 0xFFFFFFFF


@compiled
def write_decision(s, slot, ran, preempted):
    """Write the lists of a schedule() call; the victims are there already."""
    row = decision_row(s, s.decisions)
    batch = plan(s, slot)
    row.preempted, row.scheduled, row.hits = preempted, batch.size, 0
    row.swapped_out = row.swapped_in = row.ignored = row.swapped_ids = 0
    row.blocks_out = row.blocks_in = 0
    row.aborted = row.finished = row.drafts = 0
    for i in range(batch.size):
        word(s, member(s, slot, i).request)
        word(s, member(s, slot, i).tokens)
    for i in range(ran, batch.size):
        each = member(s, slot, i)
        found = request(s, each.request).computed - each.tokens
        if found > 0:
            row.hits += 1
            word(s, each.request)
            word(s, found)
    row.waiting_ids = s.waiting
    for first in (s.hold_head, s.head):
        r = first
        while r != NOBODY:
            word(s, r)
            r = request(s, r).next
    for i in range(s.running):
        word(s, running(s, i).value)
    row.running_ids = s.running
    row.hashes, row.evictions, row.crc = s.hashed, s.step_evictions, 0
    if s.extended:
        row.crc = _checksum(s)
    s.decisions += 1


@compiled
def write_step(s, row, time, start, duration, end):
    """Write the state right after a schedule() call."""
    row.scheduled, row.start, row.duration, row.end = time, start, duration, end
    row.waiting, row.running, row.swapped = s.waiting, s.running, 0
    row.blocks, row.cpu_blocks = s.num_blocks - 1 - s.free, 0
    row.evicted = s.evicted
    row.left, row.running_after, row.swapped_after = s.left, s.running, 0
    row.blocks_after = row.blocks


@compiled
def step_of(s, i):
    """Return the row of the step log for schedule() call ``i``; one is used again if none is kept.

    Batches in flight need their rows until they end, so the spare ones form a ring.
    """
    return step_row(s, i if s.record_steps else i % s.rows_size)
