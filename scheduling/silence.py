"""What becomes of an instance while it tells nothing: its state is moved on by its own forecast.

Who waits begins when the forecast reaches it, who runs gets a token with every batch that does, and
of those who run as many are left as answers are longer than the tokens so far. What comes out is a
state like any other, with parts of requests in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ode import DECIDED, DURATION, REACH, START
from scheduling.instance_state import InstanceState
from scheduling.running_set import AGE, COUNT, FURTHEST, OF, RunningSet
from serving.compilation import compiled

FEW = 0.05
"""Requests of which it is believed that none is left [requests]: the tail of an expectation."""

SURE = 0.01
"""Chance to be there still below which a request is believed to have left, by name."""

WHOLE = 0.5
"""Part of a request that has room when it begins on average. When a prediction counts (see
``answering.EARLY_BY``) it is the first time that the room is enough; what is believed is a mean."""


@compiled
def follow(curve, steps, batches, again, until, number, at, age, furthest, taken):
    """Give everyone the tokens of the batches that have ended by a time.

    Parameters
    ----------
    curve : shape (FORECAST_ROWS, K)
        A forecast.
    steps, batches
        Steps of it, and batches of each.
    again
        Whether who is stopped begins anew.
    until : [time]
        In the time of the forecast.
    number, at : shape (M,) [requests], [time]
        In the order of arrival, and when each came, in the time of the forecast.
    age, furthest, taken : shape (M,) [tokens]
        Tokens since the latest start, tokens ever, and tokens of these batches; changed.

    Returns
    -------
    done, end, duration
        Batches that have ended; when the last one did, and how long it took [time].
    """
    done, end, duration = 0, 0.0, 0.0
    for k in range(steps):
        each = curve[DURATION, k] / batches
        for b in range(batches):
            if curve[START, k] + (b + 1) * each > until:
                return done, end, duration
            done, duration = done + 1, each
            end = curve[START, k] + (b + 1) * each
            for m in range(number.size):
                if curve[REACH, k] >= number[m] and curve[DECIDED, k] >= at[m]:
                    age[m] += 1.0
                    taken[m] += 1.0
                    furthest[m] = max(furthest[m], age[m])
                elif again:
                    age[m] = 0.0
    return done, end, duration


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of an instance, made from the state that is moved on.

    Parameters
    ----------
    curve : shape (FORECAST_ROWS, K)
    steps, batches, again
        See :func:`follow`.
    origin : [time]
        Clock time of its time 0.
    number : [requests]
        In the order of arrival, of the last who is in the state.
    unit : [tokens]
        See :class:`ode.Forecaster`.
    """

    curve: NDArray[np.float64]
    steps: int
    batches: int
    again: bool
    origin: float
    number: float
    unit: float

    def size(self, prompt: float) -> float:
        """Return for how many requests a prompt counts in the order of arrival."""
        return prompt / self.unit if self.unit > 0.0 else 1.0


class Moved:
    """A state after the batches that a forecast says have ended by a time.

    Parameters
    ----------
    state
        What the forecast was made from; it is left as it is.
    forecast
        Of its instance.
    survive : shape (P + 1, L + 1)
        Chance that an answer has more than so many tokens, of any request and of each class.
    until : [time]
        On the clock.
    """

    def __init__(
        self, state: InstanceState, forecast: Forecast, survive: NDArray[np.float64], until: float
    ) -> None:
        self._state, self._forecast = state, forecast
        rows, stopped = state.running.rows, list(state.stopped.values())
        waiting = list(state.waiting.values())
        again = [forecast.size(each) for each in state.again_tokens().tolist()]
        behind = np.array(again + [forecast.size(each.prompt) for each in waiting], float)
        first = forecast.number - float(behind.sum())
        counts = rows[:, COUNT]
        running = np.cumsum(counts) * (max(first, 0.0) / max(float(counts.sum()), 1e-12))
        queued = first + np.cumsum(behind) - (1.0 - WHOLE) * behind
        number = np.concatenate([running, queued])
        at = np.full(number.size, -math.inf)
        at[len(rows) + len(stopped) :] = [each.at - forecast.origin for each in waiting]
        age = np.concatenate([rows[:, AGE], [each[0] for each in stopped], np.zeros(len(waiting))])
        ever = np.concatenate(
            [rows[:, FURTHEST], [each[1] for each in stopped], np.zeros(len(waiting))]
        )
        classes = [*(each[2] for each in stopped), *(each.of for each in waiting)]
        of = np.array([*rows[:, OF], *classes], np.int64)
        before, last, taken = ever.copy(), survive.shape[1] - 1, np.zeros(ever.size)
        self.batches, self._end, self._duration = follow(
            forecast.curve, forecast.steps, forecast.batches, forecast.again,
            until - forecast.origin, number, at, age, ever, taken,
        )  # fmt: skip
        alive = survive[of, np.minimum(before, last).astype(np.int64)]
        left = survive[of, np.minimum(ever, last).astype(np.int64)]
        weight = np.concatenate([counts, np.ones(behind.size)])
        self._left = weight * np.where(alive > 0.0, left / np.maximum(alive, 1e-300), 0.0)
        self._begun = taken > 0.0
        self._age, self._ever, self._of = age, ever, of

    @property
    def in_system(self) -> float:
        """Requests that are left [requests]."""
        return float(self._left.sum())

    def state(self) -> InstanceState:
        """Return the state, whose boundary is the end of the last of these batches."""
        was, running = self._state, len(self._state.running.rows)
        waits = ~self._begun
        waits[:running] = False
        out = InstanceState(
            boundary=self._forecast.origin + self._end,
            batch_id=was.batch_id,
            last_heard=was.last_heard,
            last_duration=self._duration,
            restarts=was.restarts,
        )
        out.running = self._running()
        stopped = len(was.stopped)
        out.stopped = {
            key: value
            for key, value, still in zip(
                was.stopped, was.stopped.values(), waits[running:], strict=False
            )
            if still
        }
        out.waiting = {
            key: value
            for (key, value), still in zip(
                was.waiting.items(), waits[running + stopped :], strict=True
            )
            if still
        }
        for key, each in out.waiting.items():
            out.waiting_tokens += each.prompt
            if each.at <= out.boundary:
                out.queue.put(key, each.of, 0.0)
            else:
                out.fresh[key] = None
        if out.running.total < FEW:
            out.running = RunningSet()
            if out.fresh and not out.queue.total and not out.stopped:
                key = next(iter(out.fresh))  # it finds nobody, and begins when it comes
                del out.fresh[key]
                out.boundary = out.waiting[key].at
                out.queue.put(key, out.waiting[key].of, 0.0)
        out.num_running = out.running.total
        return out

    def _running(self) -> RunningSet:
        """Return who runs: those who did, and then those who have begun."""
        was, found = self._state, RunningSet()
        names = was.running.names()
        rows = len(names)
        names += [{key: each[-1]} for key, each in was.stopped.items()]
        names += [{key: each.prompt} for key, each in was.waiting.items()]
        for m, mine in enumerate(names):
            if m >= rows and not self._begun[m]:
                continue
            left = float(self._left[m])
            if left <= SURE * len(mine):
                mine = {}
            if left > 0.0:
                found.gather(mine, (left, self._age[m], self._ever[m], self._of[m]))
        return found
