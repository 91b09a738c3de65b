"""How far each step of a march reaches in the order of arrival: what one more request will see.

Requests are numbered in the order of arrival by their mass. A request whose number is at most the
reach of a step takes part in the step; so ends of steps and reaches together tell when a request
that arrives now, or behind others, gets its tokens: :mod:`scheduling.tagged` follows it.
"""

from __future__ import annotations

from ode.lagrangian.kernel import advance
from ode.lagrangian.layout import FURTHEST, MASS, R_MEMORY, R_RUNNING, R_TOKENS, Answer
from ode.lagrangian.memory import parcels_of, row_at, running_of, swapped_of, waiting_of
from serving.compilation import compiled

DONE, STEP_LIMIT = int(Answer.DONE), int(Answer.STEP_LIMIT)

STRIDE = 4
"""Steps [steps] that are made at once while nobody waits and all who were sent have come."""

NOBODY = 1e-9
"""Requests [requests] up to which nobody is left out of a step."""


@compiled
def mass_of(queue):
    """Return the requests of a queue at their arrival [requests]."""
    parcels, total = parcels_of(queue), 0.0
    for i in range(queue.head, queue.tail):
        total += parcels[MASS, i]
    return total


@compiled
def number_of_last(workspace):
    """Return the number [requests] in the order of arrival of the last who is there."""
    w = workspace[0]
    return mass_of(running_of(w)) + mass_of(swapped_of(w)) + mass_of(waiting_of(w))


@compiled
def _left_out(w):
    """Return the requests [requests, at arrival] that do not execute: not begun, or stopped."""
    left = mass_of(waiting_of(w)) + mass_of(swapped_of(w))
    queue = running_of(w)
    parcels = parcels_of(queue)
    for j in range(queue.tail - queue.head):
        i = queue.tail - 1 - j
        begun = parcels[FURTHEST, i]
        if begun >= 1.0:
            break
        left += parcels[MASS, i] * (1.0 - begun)
    return left


@compiled
def _spare(w, row, size):
    """Return how many requests [requests] of a size [tokens] a step has room for beyond its own."""
    held = row[R_MEMORY] + row[R_RUNNING]
    left = min(
        w.B - row[R_TOKENS], w.M_total - held, w.admission_threshold * w.M_total - row[R_MEMORY]
    )
    return max(0.0, left) / size


@compiled
def march_reach(workspace, first, reach, most, number, last, tokens, size):
    """March and note the reach of each step.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.lagrangian.layout.WORKSPACE`, seeded, with room for ``most`` rows.
    first : [requests]
        What :func:`number_of_last` said after the seeding.
    reach : shape (most,) [requests]
        Filled: the largest number in the order of arrival for which there is room.
    most
        Steps to make at most [steps].
    number : [requests]
        Of the last who was sent.
    last, tokens : [requests], [tokens]
        The march ends when a request of this number has had so many batches as tokens.
    size : [tokens]
        Room that an expected request takes.

    Returns
    -------
    int
        An answer of :func:`ode.lagrangian.kernel.advance`. STEP_LIMIT: the steps wanted are made.
        DONE: the end is reached, or nobody is left. Otherwise enlarge what is full and call again.
    """
    w = workspace[0]
    had = 0.0
    for k in range(w.steps):
        had += w.batches_per_step if reach[k] >= last else 0.0
    left = _left_out(w)
    while w.steps < most and had < tokens:
        begun = w.steps
        is_calm = left <= NOBODY and first + w.arrived >= number - NOBODY
        w.most_steps = min(most, begun + (STRIDE if is_calm else 1))
        answer = advance(workspace)
        if w.steps > begun:
            left = _left_out(w)
            for k in range(begun, w.steps):
                reach[k] = first + w.arrived + _spare(w, row_at(w, k), size)
            if left > NOBODY:
                reach[w.steps - 1] = first + w.arrived - left
            for k in range(begun, w.steps):
                had += w.batches_per_step if reach[k] >= last else 0.0
        if answer != STEP_LIMIT:
            return answer
    return STEP_LIMIT
