"""One schedule() call: who runs in the next batch with how many tokens, and who is preempted."""

from __future__ import annotations

from discrete.vllm.layout import NOBODY, Event, Status
from discrete.vllm.memory import arrival_time
from discrete.vllm.writing import word
from discrete.vllm_v1.layout import Connector
from discrete.vllm_v1.memory import member, plan, request, running
from discrete.vllm_v1.pool import cache, look_up, note, release, take, touch
from discrete.vllm_v1.queue import defer, hold, leave_hold, leave_waiting, rejoin_waiting
from serving.compilation import compiled

RUNNING, PREEMPTED = int(Status.RUNNING), int(Status.PREEMPTED)
ADMIT, PREEMPT = int(Event.ADMIT), int(Event.PREEMPT)
SYNC, ASYNC = int(Connector.SYNC), int(Connector.ASYNC)
LOADING, LOADED = int(Status.LOADING), int(Status.LOADED)


@compiled
def blocks_for(s, tokens):
    """Return how many blocks so many tokens need."""
    return (min(tokens, s.max_model_len) + s.block_size - 1) // s.block_size


@compiled
def long_prefill_limit(s):
    """Return the most tokens of one prompt in this step; 0 where nothing limits them."""
    eligible = s.running + s.waiting
    limit = s.long_prefill
    if eligible <= 1 and not s.lone_threshold:
        limit = 0
    if limit > 0 and s.adaptive:
        limit = max(limit, s.token_budget // eligible)
    return limit


@compiled
def _someone_decodes(s):
    for i in range(s.running):
        if not request(s, running(s, i).value).is_chunk:
            return True
    return False


@compiled
def defers_prefill(s):
    """Return whether this step leaves prompts alone, so that decodes run undisturbed."""
    return (
        s.interval > 1
        and not s.capacity_bound
        and s.executed + 1 - s.last_prefill < s.interval
        and _someone_decodes(s)
    )


@compiled
def _remove_running(s, at):
    for i in range(at, s.running - 1):
        running(s, i).value = running(s, i + 1).value
    s.running -= 1


@compiled
def _victim_at(s):
    """Return where in RUNNING the next victim stands."""
    worst = s.running - 1
    if s.by_priority:
        worst = 0
        for i in range(1, s.running):
            r, w = running(s, i).value, running(s, worst).value
            priority, most = request(s, r).priority, request(s, w).priority
            if priority > most or (priority == most and arrival_time(s, r) > arrival_time(s, w)):
                worst = i
    return worst


@compiled
def _preempt(s, r):
    """Take everything from a running request and let it queue up again."""
    q = request(s, r)
    note(s, s.time, PREEMPT, r, q)
    s.lost_tokens += q.computed
    release(s, q)
    q.status = PREEMPTED
    q.computed = q.spec = q.placeholders = 0
    q.stale = q.in_flight
    q.preemptions += 1
    q.decodes = q.has_draft = q.is_prefilling = 0
    s.evicted += 1
    rejoin_waiting(s, r)
    if s.log_decisions:
        word(s, r)


@compiled
def _join_batch(s, slot, r, tokens, drafts):
    batch = plan(s, slot)
    to = member(s, slot, batch.size)
    to.request, to.tokens, to.drafts = r, tokens, drafts
    batch.size += 1
    batch.tokens += tokens


@compiled
def _leave_batch(s, slot, r):
    """Take a victim out of the batch that is being formed; return its tokens, 0 if not in it."""
    batch = plan(s, slot)
    at = 0
    while at < batch.size and member(s, slot, at).request != r:
        at += 1
    if at == batch.size:
        return 0
    tokens = member(s, slot, at).tokens
    for i in range(at, batch.size - 1):
        to, source = member(s, slot, i), member(s, slot, i + 1)
        to.request, to.tokens, to.drafts = source.request, source.tokens, source.drafts
    batch.size -= 1
    batch.tokens -= tokens
    return tokens


@compiled
def _drafts_of(s, q, tokens):
    """Return how many of the tokens of a running request are drafts; they are spent with it."""
    drafts = 0
    if q.spec > 0:
        beyond = tokens + q.computed - q.length - q.placeholders
        drafts = min(q.spec, beyond) if beyond > 0 else 0
        q.spec = 0
    return drafts


@compiled
def schedule_running(s, slot, limit, defers):
    """Let the running requests go on, head to tail, preempting where memory is short.

    Returns
    -------
    budget, inputs, preempted, has_prefill
        Tokens left, inputs left, victims, and whether a prompt goes on.
    """
    budget = inputs = s.token_budget
    preempted, has_prefill, i = 0, False, 0
    while i < s.running and budget > 0 and inputs > s.draft_slots:
        r = running(s, i).value
        q = request(s, r)
        ends = q.placeholders > 0 and q.computed + 2 - q.placeholders >= q.prompt + q.limit
        if ends or s.steps < q.eligible or (defers and q.is_chunk):
            i += 1
            continue
        tokens = q.length + q.spec + q.placeholders - q.computed
        if 0 < limit < tokens:
            tokens = limit
        tokens = min(tokens, budget, inputs - s.draft_slots, s.max_model_len - q.computed - 1)
        if tokens <= 0:
            i += 1
            continue
        end, need, stays = q.computed + tokens + s.lookahead, 0, True
        if end > q.blocks * s.block_size:  # a product is cheaper than the division
            need = max(blocks_for(s, end) - q.blocks, 0)
        while need > s.free:
            at = _victim_at(s)
            v = running(s, at).value
            _remove_running(s, at)
            if s.by_priority:
                restored = _leave_batch(s, slot, v)
                # older versions forget this for victims that were passed over in this step
                if at < i and (restored > 0 or s.steps_back):
                    i -= 1
                if restored > 0:
                    budget += restored
                    inputs += restored + s.draft_slots
            _preempt(s, v)
            preempted += 1
            if v == r:
                stays = False
                break
        if not stays:
            if s.by_priority and s.priority_goes_on:
                continue
            break
        take(s, q, need)
        cache(s, q, min(q.computed + tokens, q.length))
        has_prefill = has_prefill or q.is_chunk > 0
        budget -= tokens
        inputs -= tokens + s.draft_slots
        _join_batch(s, slot, r, tokens, _drafts_of(s, q, tokens))
        i += 1
    return budget, inputs, preempted, has_prefill


@compiled
def _brought(s, q, computed):
    """Return the tokens of KV that the connector brings, at once or during the step.

    What a prompt is stated to find in the cache is brought at once.
    """
    if s.shared:
        return max(0, q.found - computed)
    if s.connector == SYNC and (not q.seen or s.free_recompute):
        return max(0, q.length - 1 - computed)
    if s.connector == ASYNC and (not q.seen or s.free_recompute):
        return q.length - computed
    return 0


@compiled
def _reserved(s):
    """Return the blocks that prompts in progress still need."""
    blocks = 0
    for i in range(s.running):
        q = request(s, running(s, i).value)
        if q.is_prefilling:
            blocks += max(blocks_for(s, q.length) - q.blocks, 0)
    return blocks


@compiled
def _fits(s, q, hits, idle, tokens, lookahead, reserved):
    """Return how many blocks a request needs to be admitted; -1 where memory is too short."""
    margin = idle + (s.watermark_blocks if s.running > 0 else 0)
    held = hits + q.blocks
    if s.reserve_full and max(blocks_for(s, q.length) - held, 0) + margin > s.free:
        return -1
    need = max(blocks_for(s, tokens + lookahead) - held, 0)
    return need if need + margin <= s.free - reserved else -1


@compiled
def _load(s, q, r, hits, idle):
    """Give a request the blocks for a prompt that the connector brings during this step."""
    need = _fits(s, q, hits, idle, q.length, 0, _reserved(s))
    if need < 0:
        return False
    leave_waiting(s, r)
    touch(s, q, hits)
    take(s, q, need)
    q.computed, q.status, q.seen, q.is_prefilling = q.length, LOADING, 1, 1
    hold(s, r)
    defer(s, q)
    s.loading += 1
    return True


@compiled
def _first_tokens(s, q, computed, limit, room, ran, has_prefill):
    """Return the tokens that a request starts with, and the drafts that fill it up; -1: it waits.

    A request that has one token to compute is filled up to the size of a step with drafts.
    """
    tokens, drafts = q.length - computed, 0
    if s.drafts > 0 and tokens == 1 and not has_prefill and (ran > 0 or computed > 0):
        padded = 1 + s.drafts
        if computed + padded + 1 <= s.max_model_len:
            if padded > room:
                return -1, 0
            tokens, drafts = padded, s.drafts
    if 0 < limit < tokens:
        tokens = limit
    if not s.chunked and tokens > room:
        return -1, 0
    return min(tokens, room), drafts


@compiled
def _seat(s, slot, q, r, computed, tokens, drafts):
    """Let a request run, which has its blocks."""
    cache(s, q, min(computed + tokens, q.length))
    if q.status in (LOADING, LOADED):
        leave_hold(s, r)
    else:
        leave_waiting(s, r)
    running(s, s.running).value = r
    s.running += 1
    q.status = RUNNING
    q.computed = computed
    if computed + tokens < q.length:
        q.is_prefilling = 1
    _join_batch(s, slot, r, tokens, drafts)


@compiled
def _known(s, q):
    """Return the blocks that a request finds in the cache, those idle, and its computed tokens."""
    if q.status == LOADED:  # its prompt has come in; the last token is computed for its output
        cache(s, q, q.computed)
        q.computed = min(q.computed, q.length - 1)
        return 0, 0, q.computed
    hits, idle = look_up(s, q)
    return hits, idle, hits * s.block_size


@compiled
def admit(s, slot, limit, defers, budget, inputs, has_prefill):
    """Admit from the waiting queue while tokens, seats and memory last.

    Returns
    -------
    bool
        Whether a prompt was admitted that has more than a token to compute.
    """
    ran, admits_prefill = plan(s, slot).size, False
    from_hold, r = s.hold_head != NOBODY, s.hold_head
    if not from_hold:
        r = s.head
    while budget > 0 and r != NOBODY and inputs > s.draft_slots and s.running < s.max_active_seqs:
        q = request(s, r)
        after = q.next
        if from_hold and after == NOBODY:
            from_hold, after = False, s.head
        if q.stale > 0 or q.status == LOADING:  # what it waits for is still to come
            defer(s, q)
            r = after
            continue
        hits, idle, computed = _known(s, q)
        brought = 0
        if q.status != LOADED:
            brought = _brought(s, q, computed)
        if s.connector == ASYNC and brought > 0:
            if not _load(s, q, r, hits, idle):
                break
            r = after
            continue
        computed += brought
        if defers and computed < q.length - 1:
            break
        room = min(budget, inputs - s.draft_slots)
        tokens, drafts = _first_tokens(s, q, computed, limit, room, ran, has_prefill)
        if tokens < 0:
            break
        need = _fits(s, q, hits, idle, computed + tokens, s.lookahead, 0)
        if need < 0:
            break
        note(s, s.time, ADMIT, r, q)
        if q.status != LOADED:
            touch(s, q, hits)
        take(s, q, need)
        q.seen = max(q.seen, int(brought > 0))
        _seat(s, slot, q, r, computed, tokens, drafts)
        admits_prefill = admits_prefill or computed < q.length - 1
        budget -= tokens
        inputs -= tokens + s.draft_slots
        r = after
    if not defers:
        s.capacity_bound = s.waiting > s.deferred
    return admits_prefill


@compiled
def advance_members(s, slot):
    """Count the tokens of a batch as computed, as soon as it is decided."""
    for i in range(plan(s, slot).size):
        each = member(s, slot, i)
        q = request(s, each.request)
        q.computed += each.tokens
        q.in_flight += each.tokens
        q.is_chunk = q.computed < q.length + q.placeholders
        each.samples = not q.is_chunk
        if not q.is_chunk:
            q.is_prefilling = 0
        if s.asynchronous and not q.is_chunk:
            q.placeholders += 1 + each.drafts
            q.spec = s.drafts
            q.eligible = s.steps + s.pipeline


@compiled
def schedule(s, slot):
    """Decide a batch, into a slot of the ring; return how many requests were running in it."""
    s.steps += 1
    s.step_evictions = 0
    batch = plan(s, slot)
    batch.size = batch.tokens = 0
    limit, defers = long_prefill_limit(s), defers_prefill(s)
    budget, inputs, preempted, has_prefill = schedule_running(s, slot, limit, defers)
    ran, admits_prefill = batch.size, False
    if preempted == 0:
        admits_prefill = admit(s, slot, limit, defers, budget, inputs, has_prefill)
    if batch.tokens > 0:
        s.executed += 1
    if s.interval > 1 and (has_prefill or admits_prefill):
        s.last_prefill = s.executed
    advance_members(s, slot)
    s.announce = 0
    return ran, preempted
