"""What a schedule() call that the engine survived means for the preempted and the dropped."""

from __future__ import annotations

from discrete.vllm.layout import Event, Status
from discrete.vllm.writing import close_span, log
from discrete.vllm_v0.layout import Group
from discrete.vllm_v0.memory import count_of, dropped, dropped_swapped, entry, request
from discrete.vllm_v0.queues import enter_swapped, rejoin_waiting
from serving.compilation import compiled

PREEMPTED, SWAPPED, IGNORED = (
    int(Status.PREEMPTED),
    int(Status.SWAPPED),
    int(Status.IGNORED),
)
IGNORE = int(Event.IGNORE)
VICTIMS = int(Group.VICTIMS)


@compiled
def _queue_again(s, q, r):
    """Let a victim wait for its swap-in, or for its prefill from the start."""
    q.preemptions += 1
    s.evicted += 1
    if s.swaps:
        q.status = SWAPPED
        enter_swapped(s, r)
        return
    q.status = PREEMPTED
    s.lost_tokens += q.computed
    q.computed = q.decodes = 0
    rejoin_waiting(s, r)


@compiled
def _drop(s, r):
    """Let a request go that the scheduler ignores from now on."""
    q = request(s, r)
    if s.record_events:
        log(s, s.time, IGNORE, r, q.generated)
    q.status = IGNORED
    q.done = s.time
    s.left += 1
    if s.record_steps:
        close_span(s, q, r)


@compiled
def settle(s):
    """Let the victims queue up again and the dropped go."""
    for i in range(count_of(s, VICTIMS).value):
        r = entry(s, VICTIMS, i).value
        _queue_again(s, request(s, r), r)
    for i in range(s.ignored):
        _drop(s, dropped(s, i))
    for i in range(s.lost):
        _drop(s, dropped_swapped(s, i))
