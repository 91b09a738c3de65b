"""One schedule() call: who runs in the next batch with how many tokens, and who is preempted.

The call fills the lists of :class:`discrete.vllm_v0.layout.Group`. Until it is known that the real
engine survives it, nothing changes that :func:`_take_back` does not restore.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY, Event, Status
from discrete.vllm.memory import number_at
from discrete.vllm.writing import log, word
from discrete.vllm_v0.blocks import (
    append_slot,
    blocks_to_begin,
    blocks_to_go_on,
    blocks_to_move,
    free_blocks,
    has_room,
    move_in,
    move_out,
    never_fits,
    release,
    take_back_slot,
)
from discrete.vllm_v0.layout import Group
from discrete.vllm_v0.memory import count_of, entry, request, running
from discrete.vllm_v0.queues import head_of_waiting, leave_swapped, leave_waiting
from serving.compilation import compiled

RUNNING = int(Status.RUNNING)
ADMIT, PREEMPT = int(Event.ADMIT), int(Event.PREEMPT)
SWAP_OUT, SWAP_IN = int(Event.SWAP_OUT), int(Event.SWAP_IN)
NEW, CHUNKS, BACK_CHUNKS, DECODES, BACK_DECODES, VICTIMS = (int(group) for group in Group)


@compiled
def _put(s, group, r):
    """Append a request to a list of this call."""
    count = count_of(s, group)
    entry(s, group, count.value).value = r
    count.value += 1


@compiled
def _join_batch(s, group, q, r, tokens, seats):
    """Put a request into the batch."""
    q.chunk = tokens
    s.context += q.computed + tokens
    s.budget -= tokens
    s.seats -= seats
    _put(s, group, r)


@compiled
def _begin(s):
    """Blank what only this call knows."""
    for group in range(VICTIMS + 1):
        count_of(s, group).value = 0
    s.budget = s.token_budget
    # without chunked prefill everyone who runs has a seat; with it those who are in the batch
    s.seats = s.max_num_seqs if s.chunked else s.max_num_seqs - s.running
    s.context = s.moved_out = s.moved_in = s.ignored = s.lost = 0


@compiled
def _admit(s):
    """Begin the prefills from the head of the waiting queue, up to the first that has to wait."""
    while True:
        r = head_of_waiting(s)
        if r == NOBODY:
            return
        q = request(s, r)
        tokens = min(q.length, s.budget) if s.chunked else q.length
        if tokens > s.longest_prefill or never_fits(s, r):
            leave_waiting(s)
            number_at(s.dropped_at, s.ignored).value = r
            s.ignored += 1
            continue
        need = blocks_to_begin(s, q)
        if not has_room(s, need) or tokens == 0 or tokens > s.budget or s.seats < 1:
            return
        if s.record_events:
            log(s, s.time, ADMIT, r, q.generated)
        leave_waiting(s)
        q.status = RUNNING
        q.blocks = need
        s.blocks_used += need
        _join_batch(s, NEW, q, r, tokens, 1)


@compiled
def _preempt(s, r):
    """Take the blocks of a running request; return whether the real engine survives it."""
    q = request(s, r)
    if s.swaps:
        if blocks_to_move(s, q, False) > s.num_cpu_blocks - s.cpu_used:
            return False
        if s.record_events:
            log(s, s.time, SWAP_OUT, r, q.generated)
        move_out(s, q)
    else:
        if s.record_events:
            log(s, s.time, PREEMPT, r, q.generated)
        release(s, q)
    if s.log_decisions:
        word(s, r)
    _put(s, VICTIMS, r)
    return True


@compiled
def _take_back(s, survivors, fresh, resumed, events, words):
    """Restore what stood before the call in which the real engine dies."""
    for i in range(count_of(s, VICTIMS).value):
        q = request(s, entry(s, VICTIMS, i).value)
        s.cpu_used -= q.blocks
        s.blocks_used += q.blocks
    for i in range(count_of(s, DECODES).value):
        take_back_slot(s, request(s, entry(s, DECODES, i).value))
    s.running = survivors
    s.waiting += s.ignored
    s.fresh, s.resumed, s.events, s.words = fresh, resumed, events, words


@compiled
def _go_on(s):
    """Let the running requests go on, head to tail, preempting from the tail where memory is short.

    Returns
    -------
    bool
        Whether the CPU had room for every victim.
    """
    first, end = 0, s.running
    while first < end:
        r = running(s, first).value
        q = request(s, r)
        tokens = 1 if q.decodes else q.length - q.computed
        if s.chunked:
            tokens = min(tokens, s.budget)
            if tokens == 0:
                break
        first += 1
        need, stays = blocks_to_go_on(s, q), True
        while stays and need > free_blocks(s):
            victim = r
            if first < end:
                end -= 1
                victim = running(s, end).value
            stays = victim != r
            if not _preempt(s, victim):
                return False
        if not stays:
            break
        append_slot(s, q)
        _join_batch(s, DECODES if q.decodes else CHUNKS, q, r, tokens, s.chunked)
    for i in range(first, end):
        running(s, i - first).value = running(s, i).value
    s.running = end - first
    return True


@compiled
def _come_back(s):
    """Swap requests in, in their order, up to the first that has to wait."""
    while s.swapped > 0:
        r = s.swapped_head
        q = request(s, r)
        need = blocks_to_move(s, q, True)
        if need > s.num_gpu_blocks:  # its blocks stay on the CPU for ever, as in vLLM
            leave_swapped(s)
            s.lost += 1
            number_at(s.dropped_at, s.total - s.lost).value = r
            continue
        tokens = 1 if q.decodes else q.length - q.computed
        if not has_room(s, need) or tokens > s.budget or s.seats < 1:
            return
        if s.record_events:
            log(s, s.time, SWAP_IN, r, q.generated)
        if s.log_decisions:
            word(s, r)
        leave_swapped(s)
        q.status = RUNNING
        q.swap_ins += 1
        move_in(s, q)
        append_slot(s, q)
        _join_batch(s, BACK_DECODES if q.decodes else BACK_CHUNKS, q, r, tokens, 1)


@compiled
def _enter_running(s, group):
    for i in range(count_of(s, group).value):
        running(s, s.running).value = entry(s, group, i).value
        s.running += 1


@compiled
def _form_running(s):
    """Put the batch behind those who run but are not in it, in the order of the version."""
    if s.chunked and not s.is_old:
        _enter_running(s, BACK_DECODES)
        _enter_running(s, BACK_CHUNKS)
        _enter_running(s, DECODES)
        _enter_running(s, CHUNKS)
        _enter_running(s, NEW)
    else:
        _enter_running(s, NEW)
        _enter_running(s, DECODES)
        _enter_running(s, CHUNKS)
        _enter_running(s, BACK_DECODES)
        _enter_running(s, BACK_CHUNKS)


@compiled
def schedule(s):
    """Decide a batch; return whether the real engine survives the call."""
    survivors, fresh, resumed, events, words = s.running, s.fresh, s.resumed, s.events, s.words
    _begin(s)
    if not s.chunked and s.swapped == 0:
        _admit(s)
    if count_of(s, NEW).value == 0:
        if not _go_on(s):
            _take_back(s, survivors, fresh, resumed, events, words)
            return False
        if count_of(s, VICTIMS).value == 0:
            _come_back(s)
    if s.chunked:
        _admit(s)
    _form_running(s)
    return True
