"""What a march of the fluid model begins with, read off what is known of an instance.

It changes nothing of what is known: a state in, an :class:`ode.Present` out.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ode import Forecaster, Present
from scheduling.instance_state import InstanceState
from scheduling.running_set import binned
from scheduling.waiting import size_of

HISTOGRAM_ROWS = 96
"""Rows that a march begins with at most: neighbours in the order of entry become one."""

KNOWN_PROMPTS = 64
"""Prompts that wait and are told one by one [prompts]."""


class MarchStart:
    """Writes the states of instances as a march begins with them.

    Parameters
    ----------
    classes
        Classes of lengths, that of all requests included.

    Notes
    -----
    The arrays are used anew for each state: a march reads them before the next one is written.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        rows = max(HISTOGRAM_ROWS, 2 * classes)
        self._rows, self._queued, self._arriving = np.zeros((3, rows, 4))

    def of(
        self,
        state: InstanceState,
        forecaster: Forecaster,
        now: float,
        rate: float,
        even: float | None = None,
    ) -> Present:
        """Return what a march of an instance begins with.

        Parameters
        ----------
        state, forecaster
            Of the instance.
        now : [time]
            When those have come who were sent since the boundary of the state.
        rate : [requests/time]
            Of those who are expected to come.
        even : [time]
            Where it is given, who was sent since the boundary comes evenly in this time instead,
            and nobody else does.
        """
        unit, fresh = forecaster.unit, state.fresh_size(forecaster.unit)
        origin = now if state.is_idle else state.boundary
        before = state.last_duration if state.last_duration == state.last_duration else 0.0
        arriving = self._arriving[:0]
        if not even:
            arriving = self._binned(fresh_rows(state), self._arriving)
        return Present(
            self._binned(state.running.rows, self._rows),
            stopped_rows(state),
            self._binned(state.queue.rows, self._queued),
            arriving,
            state.again_tokens(),
            first_prompts(state),
            state.computed_ahead,
            max(0.0, state.waiting_size(unit) - fresh),
            late_size(state, unit, origin - before) if forecaster.ahead else 0.0,
            0.0 if even else fresh,
            max(0.0, now - origin),
            before,
            fresh / even if even else rate,
            None if state.kv_used != state.kv_used else state.kv_used,
            begun_tokens(state),
        )

    def _binned(
        self, groups: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return rows[: binned(groups, self._classes, rows)]


def late_size(state: InstanceState, unit: float, decided: float) -> float:
    """Return who was sent after a time, up to the boundary [requests].

    Parameters
    ----------
    unit : [tokens]
        As of :meth:`InstanceState.waiting_size`.
    decided : [time]
        When the batch under way was decided.
    """
    total = 0.0
    for each in reversed(state.waiting.values()):
        if each.at <= decided:
            break
        total += size_of(each, unit) if each.at <= state.boundary else 0.0
    return total


def first_prompts(state: InstanceState) -> NDArray[np.float64]:
    """Return the first prompts that wait, in the order of arrival, shape (P,) [tokens]."""
    first = islice(state.waiting.values(), KNOWN_PROMPTS)
    return np.fromiter((each.prompt for each in first), float)


def begun_tokens(state: InstanceState) -> float:
    """Return the prompts [tokens] of those who run without a first token, as was reported."""
    begun = int(state.num_running - state.running.total + 0.5)
    first = islice(state.waiting.values(), max(begun, 0))
    return float(sum(each.prompt for each in first))


def fresh_rows(state: InstanceState) -> NDArray[np.float64]:
    """Return the histogram of those sent since the boundary, shape (F, 4)."""
    rows = [(1.0, 0.0, 0.0, state.waiting[each].of) for each in state.fresh]
    return np.array(rows, float).reshape(-1, 4)


def stopped_rows(state: InstanceState) -> NDArray[np.float64]:
    """Return the histogram of the requests that were stopped, shape (S, 4)."""
    rows = [
        (1.0, 0.0 if state.restarts else age, furthest, of)
        for age, furthest, of, _ in state.stopped.values()
    ]
    return np.array(rows, float).reshape(-1, 4)
