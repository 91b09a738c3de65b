"""Predictions for many candidates in one compiled call: a look-up in forecasts that are there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode import PROMPT_KNOTS, Marched
from scheduling.tagged import first_token, stay
from serving.compilation import compiled

(
    STEPS,
    BATCHES,
    AGAIN,
    ORIGIN,
    NUMBER,
    UNIT,
    ROOM,
    FIRST_PER_ROOM,
    FIRST_PER_HELD,
    FIRST_PER_PAIR,
    FIXED,
    PER_PROMPT,
    PER_TOKEN,
    COST,
    COST_PER_TOKEN,
    LATEST,
    IDLE,
    EXECUTING,
) = range(18)
"""Columns of what is known of a forecast besides its steps.

STEPS, BATCHES, AGAIN: see :mod:`scheduling.tagged`. ORIGIN [time]: clock time of its time 0.
NUMBER [requests]: of the last who is there, those sent since included. UNIT [tokens]: see
:class:`ode.Forecaster`. ROOM to COST_PER_TOKEN: see :class:`ode.Marched`. LATEST: when
the batch under way ends at the latest, as far as anybody can believe, in the time of the forecast.
IDLE: 1 where a request begins at once. EXECUTING [requests]: who bears what a request
costs others."""

PROMPTS, FIRST = 18, 18 + PROMPT_KNOTS
"""Where the columns of :attr:`ode.Marched.prompts` begin, and those of ``first``."""

ABOUT_COLUMNS = 18 + 2 * PROMPT_KNOTS
"""Columns of a forecast besides its steps [columns]."""

TTFT, E2EL, EARLY, MIDDLE, LATE, EXTERNALITY, BEHIND = range(7)
"""Columns of the answers [time]; EARLY to LATE are those at :data:`scheduling.lengths.MARKS`,
BEHIND is the TTFT of who would come right behind, summed."""

NEXT = (1.0, 2.0, 4.0)
"""How many expected requests behind one the last of those comes whose TTFT counts as BEHIND."""

ANSWER_COLUMNS = 7
"""Columns of the answers [columns]."""


EARLY_BY = 0.75
"""Requests [requests] by which one begins before the fluid has room for it, on average: the room
comes and goes by whole requests, and the first time that it is enough counts."""


def note_march(about: NDArray[np.float64], found: Marched) -> None:
    """Write into the columns of a forecast what its march says of a candidate."""
    about[PROMPTS:FIRST], about[FIRST:], about[FIXED] = found.prompts, found.first, found.fixed
    about[ROOM], about[FIRST_PER_ROOM] = found.room, found.first_per_room
    about[FIRST_PER_HELD], about[FIRST_PER_PAIR] = found.first_per_held, found.first_per_pair
    about[PER_PROMPT], about[PER_TOKEN] = found.per_prompt, found.per_token
    about[COST], about[COST_PER_TOKEN] = found.cost, found.cost_per_token
    about[EXECUTING] = found.executing


@compiled
def _place(about, prompt, now):
    """Return the time in the forecast, the number in the order, and what a batch costs more."""
    at = 0.0 if about[IDLE] > 0.0 else min(now - about[ORIGIN], about[LATEST])
    own_size = prompt / about[UNIT] if about[UNIT] > 0.0 else 1.0
    number = about[NUMBER] + max(0.0, own_size - EARLY_BY)
    own = about[FIXED] + about[PER_PROMPT] * prompt
    return max(at, 0.0), number, own


@compiled
def _prompt_time(about, prompt):
    """Return what computing its own prompt adds to the TTFT of a request [time]."""
    room = about[ROOM]
    steps = max(0.0, np.ceil(prompt / room) - 1.0) if room > 0.0 else 0.0
    rest = prompt - steps * room if steps > 0.0 else prompt
    last = _first_step_time(about, rest)
    if steps == 0.0:
        return last
    whole = about[FIRST_PER_ROOM] + _first_step_time(about, room)
    held = 0.5 * steps * (steps + 1.0) * room  # before each of its later chunks, summed
    pairs = room * (held - steps * room) + rest * steps * room
    return last + steps * whole + about[FIRST_PER_HELD] * held + about[FIRST_PER_PAIR] * pairs


@compiled
def _first_step_time(about, prompt):
    """Return what so many tokens of a prompt add to a step [time]."""
    low, high = 0, PROMPT_KNOTS - 1
    while high - low > 1:
        middle = (low + high) // 2
        if about[PROMPTS + middle] <= prompt:
            low = middle
        else:
            high = middle
    begin, width = about[PROMPTS + low], about[PROMPTS + high] - about[PROMPTS + low]
    rise = about[FIRST + high] - about[FIRST + low]
    return about[FIRST + low] + (prompt - begin) * (rise / width if width > 0.0 else 0.0)


@compiled
def _ttft(curve, about, prompt, now):
    """Return the TTFT of a candidate [time]."""
    at, number, own = _place(about, prompt, now)
    time, _ = first_token(curve, int(about[STEPS]), int(about[BATCHES]), at, number)
    return time - at + own + _prompt_time(about, prompt)


@compiled
def _behind(curve, about, prompt, now):
    """Return the TTFT of who would come right behind a candidate, summed [time].

    Behind it come one, two and four requests with the mean prompt; the TTFT of the last of each
    counts. It tells how crowded the candidate leaves an instance.
    """
    total = 0.0
    for number in NEXT:
        total += _ttft(curve, about, prompt + number * about[UNIT], now)
    return total


@compiled
def answer_ttft(curves, about, instances, prompts, now, out):
    """Write the TTFT [time] of candidates; what was not asked for is not-a-number.

    Parameters
    ----------
    curves : shape (N, 4, K)
        Forecasts, see :mod:`ode._forecast`.
    about : shape (N, ABOUT_COLUMNS)
    instances, prompts : shape (C,)
        Instance and prompt [tokens] of each candidate.
    now : [time]
    out : shape (C, ANSWER_COLUMNS)
    """
    for c in range(instances.size):
        i = instances[c]
        out[c, :] = np.nan
        out[c, TTFT] = _ttft(curves[i], about[i], prompts[c], now)


@compiled
def answer_behind(curves, about, instances, prompts, now, out):
    """Write the TTFT of candidates, and those of who would come right behind them, summed.

    Parameters
    ----------
    curves, about, instances, prompts, now, out
        See :func:`answer_ttft`.
    """
    answer_ttft(curves, about, instances, prompts, now, out)
    for c in range(instances.size):
        i = instances[c]
        out[c, BEHIND] = _behind(curves[i], about[i], prompts[c], now)


@compiled
def answer_all(curves, about, instances, prompts, classes, survive, rest, marks, mean, now, out):
    """Write all answers of candidates.

    Parameters
    ----------
    curves, about, instances, prompts, now, out
        See :func:`answer_ttft`.
    classes : shape (C,)
        Class of the length of each candidate.
    survive, rest, marks, mean
        Tables of a :class:`scheduling.lengths.LengthModel`.
    """
    size = marks.shape[1]
    for c in range(instances.size):
        i, of = instances[c], classes[c]
        each = about[i]
        at, number, own = _place(each, prompts[c], now)
        stay(
            curves[i], int(each[STEPS]), int(each[BATCHES]), each[AGAIN] > 0.0, at, number,
            survive[of], rest[of], marks[of], own, each[PER_TOKEN], out[c, : 2 + size],
        )  # fmt: skip
        first = _prompt_time(each, prompts[c])
        for column in range(2 + size):
            out[c, column] += first - at
        tokens = mean[of]
        held = prompts[c] * tokens + 0.5 * tokens * (tokens + 1.0)
        cost = first + each[COST] * tokens + each[COST_PER_TOKEN] * held
        out[c, EXTERNALITY] = each[EXECUTING] * cost
        out[c, BEHIND] = _behind(curves[i], each, prompts[c], now)
