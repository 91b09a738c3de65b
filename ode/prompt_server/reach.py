"""Marches from the present state of a server, and how far each step reaches in order of arrival.

Requests that wait are numbered in the order of arrival; see :mod:`ode.lagrangian.reach`.
"""

from __future__ import annotations

import numpy as np

from ode._forecast import DECIDED, DURATION, REACH, START
from ode.lagrangian.layout import R_DURATION, R_START
from ode.prompt_server.kernel import advance
from ode.prompt_server.layout import MASS, PREEMPTED, QUEUES, SWAPPED, Answer
from ode.prompt_server.memory import lane, masses_of, parcels_of, queue_of, row_at, totals
from serving.compilation import compiled

DONE, FULL, STEP_LIMIT = int(Answer.DONE), int(Answer.FULL), int(Answer.STEP_LIMIT)

NOBODY = 1e-9
"""Requests [requests] up to which nobody is left out of a step."""


@compiled
def seed(workspace, running):
    """Set the state of a workspace at time 0; whatever it held before is gone.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.prompt_server.layout.WORKSPACE`, with room for the steps to come.
    running : shape (R, 2) [requests, tokens]
        Requests that decode, and how many tokens they have.
    """
    w = workspace[0]
    masses = masses_of(w)
    masses[: w.clock + 2] = 0.0
    w.now = w.device_free = w.arrived = w.admitted = w.completed = w.running = w.swapped = 0.0
    w.memory = w.evicted = w.wasted = w.taken = w.moved = w.credit = w.tokens = w.busy = 0.0
    w.memory_time = 0.0
    w.knot = w.steps = w.admissions = w.pieces = 0
    for number in range(QUEUES):
        queue = queue_of(w, number)
        queue.head = queue.tail = 0
    oldest = 0
    for i in range(len(running)):
        oldest = max(oldest, int(running[i, 1] + 0.5))
    oldest = min(oldest, w.ages - 1)
    w.clock = oldest
    for i in range(len(running)):
        age = max(1, int(running[i, 1] + 0.5))
        alive = 0.0
        while age > 1 and alive <= 0.0:  # nobody is longer than the mix allows
            age = min(age, oldest)
            alive = lane(w, 0, age)
            if alive <= 0.0:
                age -= 1
        alive = lane(w, 0, age)
        masses[oldest + 1 - age] += running[i, 0] / max(alive, 1e-12)


@compiled
def held_by(workspace):
    """Return the KV [tokens] that those who run hold, by their number and ages."""
    return totals(workspace[0])[4]


@compiled
def _stopped(w):
    """Return the requests [requests, at arrival] that were preempted and do not run again yet."""
    left = 0.0
    for number in (PREEMPTED, SWAPPED):
        queue, parcels = queue_of(w, number), parcels_of(w, number)
        for i in range(queue.head, queue.tail):
            left += parcels[i, MASS]
    return left


@compiled
def march_reach(workspace, out, most, number, tokens, surplus, fade):
    """March and write the steps as a forecast.

    Parameters
    ----------
    workspace : shape (1,)
        Seeded.
    out : shape (FORECAST_ROWS, most)
        Filled, see :mod:`ode._forecast`.
    most
        Steps to make at most [steps].
    number, tokens : [requests], [tokens]
        The march ends when a request of this number has had so many steps as tokens.
    surplus, fade : [tokens], [steps]
        KV that those who run at time 0 hold beyond what their number and ages say, and in how many
        steps it goes with them.

    Returns
    -------
    int
        An answer of :func:`ode.prompt_server.kernel.advance`; STEP_LIMIT where all is done. After
        FULL enlarge the tables and call again.
    """
    w = workspace[0]
    kv_tokens = w.kv_tokens
    had = 0.0
    for k in range(w.steps):
        had += 1.0 if out[REACH, k] >= number else 0.0
    while w.steps < most and had < tokens:
        begun, decided = w.steps, w.now
        w.most_steps = begun + 1
        w.kv_tokens = kv_tokens - surplus * max(0.0, 1.0 - begun / fade)
        answer = advance(workspace)
        w.kv_tokens = kv_tokens
        if w.steps > begun:
            left = _stopped(w)
            all_in = w.arrived - w.admitted <= NOBODY * (1.0 + w.arrived) and left <= NOBODY
            edge = np.inf if all_in else w.admitted - left
            for k in range(begun, w.steps):
                row = row_at(w, k)
                out[START, k], out[DURATION, k] = row[R_START], row[R_DURATION]
                out[DECIDED, k] = min(decided, row[R_START])
                out[REACH, k] = edge
                had += 1.0 if edge >= number else 0.0
        if answer != STEP_LIMIT:
            return answer
    return STEP_LIMIT
