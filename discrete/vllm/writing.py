"""What the kernels of the vLLM engines write besides their decisions, compiled.

The caller of these functions has made sure that the sinks have room.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm.memory import event_row, grid_time, number_at, sample_row, span_row
from serving.compilation import compiled


@compiled
def sinks_have_room(s):
    """Return whether one iteration fits into the sinks, whatever happens in it."""
    here = s.waiting + s.running + s.swapped
    if s.record_steps and (s.rows == s.rows_size or s.spans_size - s.spans < 2 * here + 2):
        return False
    if s.record_events and s.events_size - s.events < 4 * here + 4:
        return False
    return not s.log_decisions or (
        s.decisions < s.decisions_size
        and s.words_size - s.words >= 8 * here + 8
        and s.outcomes_size - s.outcomes >= 6 * here + 8
    )


@compiled
def word(s, value):
    """Append a number to the lists of the step that is being decided."""
    number_at(s.words_at, s.words).value = value
    s.words += 1


@compiled
def outcome(s, value):
    """Append a number to the lists of the step whose output is being applied."""
    number_at(s.outcomes_at, s.outcomes).value = value
    s.outcomes += 1


@compiled
def log(s, time, kind, r, decoded):
    """Append an event."""
    row = event_row(s, s.events)
    row.time = time
    row.kind = kind
    row.request = r
    row.decoded = decoded
    row.memory = s.blocks_used * s.block_size
    s.events += 1


@compiled
def close_span(s, q, r):
    """Write the present span of tokens of a request, if it has one."""
    if q.span_first == NOBODY:
        return
    row = span_row(s, s.spans)
    row.request = r
    row.first_batch = q.span_first
    row.last_batch = q.span_last
    row.first_token = q.span_token
    s.spans += 1
    q.span_first = NOBODY


@compiled
def note_tokens(s, q, r, step, before):
    """Note that a request, of ``before`` tokens so far, got tokens by a step."""
    if q.span_first != NOBODY and q.span_last == s.last_emitting:
        q.span_last = step
        return
    close_span(s, q, r)
    q.span_first = q.span_last = step
    q.span_token = before


@compiled
def sample_step(s, row, until):
    """Fill the sampling grid before ``until`` with the state of a step."""
    while s.samples < s.grid_size and grid_time(s, s.samples) < until:
        to = sample_row(s, s.samples)
        to.duration = row.duration
        to.running = row.running
        to.swapped = row.swapped
        to.left = s.left
        to.evicted = row.evicted
        to.blocks = row.blocks
        to.size = row.size
        to.tokens = row.prefill_tokens + row.decode_tokens
        s.samples += 1


@compiled
def sample_idle(s, until):
    """Fill the sampling grid before ``until`` with the state of a node that executes nothing."""
    while s.samples < s.grid_size and grid_time(s, s.samples) < until:
        to = sample_row(s, s.samples)
        to.running = s.running
        to.swapped = s.swapped
        to.left = s.left
        to.evicted = s.evicted
        to.blocks = s.blocks_used
        s.samples += 1
