"""What the V1 engine can tell of itself while others decide whom to send to it, compiled."""

from __future__ import annotations

import numpy as np

from discrete._engine import Stop
from discrete.vllm.layout import FUEL, UNLIMITED
from discrete.vllm.reports import look, members_of, to_last_end, token_since_of
from discrete.vllm_v1.kernel import advance
from discrete.vllm_v1.layout import REQUEST
from serving.compilation import compiled

UNTIL, FINISHED = int(Stop.UNTIL), int(Stop.FINISHED)
STRIDE = REQUEST.itemsize


@compiled
def refresh(states, reports, where, first, now, delay, period):
    """Advance engines and write what each tells; see :class:`discrete.Reporting`."""
    for i in range(first, states.size):
        s = states[i]
        if s.time < now:
            stop = advance(states[i : i + 1], now, UNLIMITED, FUEL)
            if stop != UNTIL and stop != FINISHED:
                return i
        report, time = reports[where[i]], now - delay
        if period > 0:
            time = np.floor(time / period) * period
        if time >= report.time:
            told = to_last_end(s, report, time)
            look(s, report, told if period < 0 else time, STRIDE)
    return states.size


@compiled
def members(state, batch, oldest, started, finished):
    """List who got the first and who the last token; see :class:`discrete.Reporting`."""
    return members_of(state[0], batch, oldest, started, finished, STRIDE)


@compiled
def token_since(state, number, batch, span):
    """Return the first step that gave a request a token; see :class:`discrete.Reporting`."""
    return token_since_of(state[0], number, batch, span, STRIDE)
