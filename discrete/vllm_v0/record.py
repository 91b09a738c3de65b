"""What a schedule() call costs, and what is written of it."""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm.memory import decision_row, step_row
from discrete.vllm.writing import word
from discrete.vllm_v0.layout import Group
from discrete.vllm_v0.memory import count_of, dropped, dropped_swapped, entry, request, running
from serving.batch_kernel import step_duration
from serving.compilation import compiled

BACK_CHUNKS, DECODES, BACK_DECODES, VICTIMS = (
    int(Group.BACK_CHUNKS),
    int(Group.DECODES),
    int(Group.BACK_DECODES),
    int(Group.VICTIMS),
)
PREFILL_GROUPS, BATCH_GROUPS = DECODES, VICTIMS


@compiled
def _prefill_of(s, row):
    """Count what is computed of prompts; return the tokens that are free, and the law's sums."""
    tokens = prefills = free = 0
    attention = begun = 0.0
    for group in range(PREFILL_GROUPS):
        count = count_of(s, group).value
        prefills += count
        for i in range(count):
            q = request(s, entry(s, group, i).value)
            if not q.first_sched == q.first_sched:
                q.first_sched = s.time
            tokens += q.chunk
            if q.preemptions > 0:
                q.recomputed += q.chunk
            if s.remote and (q.preemptions == 0 or s.free_recompute):
                free += q.chunk
            else:
                attention += q.chunk * (q.computed + (q.chunk + 1) / 2)
                begun += q.computed
    row.prefills, row.prefill_tokens = prefills, tokens
    s.prefill_computed += tokens - free
    return free, attention, begun


@compiled
def duration_of(s, row):
    """Return the duration [time] of the batch, and write what is in it into its row."""
    free, attention, begun = _prefill_of(s, row)
    decodes = count_of(s, DECODES).value + count_of(s, BACK_DECODES).value
    row.size, row.decode_tokens, row.context = row.prefills + decodes, decodes, s.context
    moved = s.moved_out + s.moved_in
    if moved == 0 and (row.size == 0 or (s.remote and row.prefill_tokens + decodes == free)):
        return 0.0
    prefill = row.prefill_tokens - free
    return step_duration(s.law_at, decodes, s.context, prefill, attention, begun, moved)


@compiled
def _write_queues(s, row):
    """Write who waits, runs and is swapped."""
    r, row.waiting_ids = s.resumed, s.waiting
    while r != NOBODY:
        word(s, r)
        r = request(s, r).next
    for r in range(s.fresh, s.arrived):
        word(s, r)
    row.running_ids = s.running
    for i in range(s.running):
        word(s, running(s, i).value)
    r, row.swapped_ids = s.swapped_head, s.swapped
    while r != NOBODY:
        word(s, r)
        r = request(s, r).next


@compiled
def write_decision(s, size):
    """Write the lists of a schedule() call; who was preempted or swapped is there already."""
    row, victims = decision_row(s, s.decisions), count_of(s, VICTIMS).value
    row.preempted = 0 if s.swaps else victims
    row.swapped_out = victims - row.preempted
    row.swapped_in = count_of(s, BACK_CHUNKS).value + count_of(s, BACK_DECODES).value
    row.scheduled, row.hits, row.ignored = size, 0, s.ignored + s.lost
    for group in range(BATCH_GROUPS):
        for i in range(count_of(s, group).value):
            r = entry(s, group, i).value
            word(s, r)
            word(s, request(s, r).chunk)
    for i in range(s.ignored):
        word(s, dropped(s, i))
    for i in range(s.lost):
        word(s, dropped_swapped(s, i))
    _write_queues(s, row)
    row.blocks_out, row.blocks_in = s.moved_out, s.moved_in
    row.aborted = row.finished = row.drafts = 0
    row.hashes = row.evictions = row.crc = 0
    s.decisions += 1


@compiled
def write_step(s, row, duration):
    """Write the state right after a schedule() call."""
    row.scheduled, row.duration = s.time, duration
    row.start = s.time + (s.cpu_gap if duration > 0 else 0.0)
    row.end = row.start + duration
    row.waiting, row.running, row.swapped = s.waiting, s.running, s.swapped
    row.blocks, row.cpu_blocks = s.blocks_used, s.cpu_used
    row.evicted = s.evicted


@compiled
def write_step_end(s, row):
    """Write the state right after the output of a step was applied."""
    row.left, row.running_after, row.swapped_after = s.left, s.running, s.swapped
    row.blocks_after = s.blocks_used


@compiled
def step_of(s, i):
    """Return the row of the step log for a schedule() call; if none is kept, one is used again."""
    return step_row(s, i if s.record_steps else i % s.rows_size)
