"""What the V0 engine can tell of itself while others decide whom to send to it, compiled."""

from __future__ import annotations

from discrete._engine import Stop
from discrete._report import told_at
from discrete.vllm.layout import FUEL, UNLIMITED
from discrete.vllm.reports import look, readers, to_last_end
from discrete.vllm_v0.kernel import advance
from discrete.vllm_v0.layout import REQUEST
from serving.compilation import compiled

UNTIL, FINISHED = int(Stop.UNTIL), int(Stop.FINISHED)
STRIDE = REQUEST.itemsize

members, token_since = readers(STRIDE)


@compiled
def refresh(states, reports, where, first, now, delay, period):
    """Advance engines and write what each tells; see :class:`discrete.Reporting`."""
    for i in range(first, states.size):
        s = states[i]
        if s.time < now:
            stop = advance(states[i : i + 1], now, UNLIMITED, FUEL)
            if stop != UNTIL and stop != FINISHED:
                return i
        report = reports[where[i]]
        time = told_at(now, delay, period)
        if time >= report.time:
            told = to_last_end(s, report, time)
            look(s, report, told if period < 0 else time, STRIDE)
    return states.size
