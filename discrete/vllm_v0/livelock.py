"""Whether the scheduler goes round in a circle: it preempts and computes anew, for ever.

The decisions of this scheduler depend on nothing but its queues and on what was computed of each
request. So if these come back with nobody new and no token in between, they come back for ever.
"""

from __future__ import annotations

from discrete.vllm.layout import NOBODY
from discrete.vllm_v0.memory import request, running
from serving.compilation import compiled

QUIET = 1000
"""Schedule() calls without progress before anyone looks whether there will be any."""

FACTOR = 0x9E3779B97F4A7C15 - 2**64
"""An odd number whose multiples spread over 64 bits."""


@compiled
def _mixed(digest, value):
    digest = (digest ^ value) * FACTOR
    return digest ^ (digest >> 29)


@compiled
def _digest(s):
    """Return a number that tells states of the queues apart."""
    digest = _mixed(s.fresh, s.cpu_used)
    for i in range(s.running):
        r = running(s, i).value
        digest = _mixed(_mixed(digest, r), request(s, r).computed)
    r, digest = s.resumed, _mixed(digest, -1)
    while r != NOBODY:
        digest = _mixed(digest, r)
        r = request(s, r).next
    r, digest = s.swapped_head, _mixed(digest, -1)
    while r != NOBODY:
        digest = _mixed(_mixed(digest, r), request(s, r).computed)
        r = request(s, r).next
    return digest


@compiled
def goes_round(s):
    """Return whether the present state was there before since the last progress.

    It is compared with one earlier state. The distance to that grows until it holds a whole round.
    """
    quiet, marked = s.steps - s.last_progress, s.mark_step - s.last_progress
    if quiet < QUIET:
        return False
    digest = _digest(s)
    if marked >= QUIET and s.steps > s.mark_step and digest == s.mark:
        return True
    if marked < QUIET or quiet >= 2 * marked:
        s.mark, s.mark_step = digest, s.steps
    return False
