"""What comes back: the tokens of the batch that ended, and requests that end with them."""

from __future__ import annotations

from discrete.vllm.layout import Event, Status
from discrete.vllm.writing import close_span, log, note_tokens, outcome
from discrete.vllm_v0.blocks import release
from discrete.vllm_v0.layout import Group
from discrete.vllm_v0.memory import count_of, entry, request, running
from serving.compilation import compiled

FINISHED, COMPLETE = int(Status.FINISHED), int(Event.COMPLETE)
BATCH_GROUPS = int(Group.VICTIMS)


@compiled
def _finish(s, q, r):
    if s.record_events:
        log(s, s.time, COMPLETE, r, q.generated)
    release(s, q)
    q.status = FINISHED
    q.done = s.time
    s.finished += 1
    s.left += 1
    if s.record_steps:
        close_span(s, q, r)
    if s.log_decisions:
        outcome(s, r)


@compiled
def _drop_finished(s):
    """Take those who have finished out of RUNNING."""
    kept = 0
    for i in range(s.running):
        r = running(s, i).value
        if request(s, r).status != FINISHED:
            running(s, kept).value = r
            kept += 1
    s.running = kept


@compiled
def apply_output(s, row, step):
    """Give a token to everyone in the batch whose KV is complete; return how many finish."""
    finished, tokens = s.finished, 0
    for group in range(BATCH_GROUPS):
        for i in range(count_of(s, group).value):
            r = entry(s, group, i).value
            q = request(s, r)
            q.computed += q.chunk
            if q.computed < q.length:
                continue
            q.decodes = 1
            if not q.first_token == q.first_token:
                q.first_token = s.time
            if s.record_steps:
                note_tokens(s, q, r, step, q.generated)
            q.length += 1
            q.generated += 1
            tokens += 1
            if q.generated == q.limit:
                _finish(s, q, r)
    row.emitting = tokens
    if tokens > 0:
        s.last_emitting = step
        s.last_progress = step
    if s.finished > finished:
        _drop_finished(s)
    return s.finished - finished
