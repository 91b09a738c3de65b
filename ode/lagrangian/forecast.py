"""Forecasts of a decode node on the iteration clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ode._caveats import policy_labels
from ode._forecast import (
    DECIDED,
    DURATION,
    FOREVER,
    NO_PROMPT,
    REACH,
    START,
    Forecaster,
    Marched,
    Present,
)
from ode.lagrangian.layout import HISTOGRAM_OF, R_DURATION, R_SIZE, R_START, R_TOKENS, Answer
from ode.lagrangian.reach import march_reach, number_of_last
from ode.lagrangian.seed import push_waiting, seed
from ode.lagrangian.solve import SHORTEST_RESOLVED
from ode.lagrangian.workspace import Workspace
from serving import DecodeNode, RateProfile, RequestMix, SolveError, answers

NOBODY = 1e-12
"""Rate that stands for none [requests/time]: without any, a node with nobody on it would make no
batch that could tell how long one takes."""

LONG_SHARE = 0.9
"""Share of the prompts for which a forecast goes on until they have begun."""

FILLED = 0.999
"""Share of the token budget from which it is taken to fill a batch."""


class DecodeNodeForecaster:
    """Forecasts of a decode node, see :class:`ode.Forecaster`."""

    def __init__(
        self, mix: RequestMix, instance: DecodeNode, classes: Sequence[RequestMix] = ()
    ) -> None:
        self.batches = max(1, int(mix.mean_decode / SHORTEST_RESOLVED))
        self.again = instance.mode == "sacrifice"
        self.ahead, self.unit = False, 0.0
        self.mean_prompt = mix.mean_prefill
        self._long = _long_prompt(mix) / max(self.mean_prompt, 1.0)
        self._node = instance
        oldest = [mix.longest_decode - 1.0, *(each.longest_decode - 1.0 for each in classes)]
        self._oldest = np.array(oldest)
        curve = RateProfile(np.array([0.0, 0.0, 0.0, FOREVER]), np.zeros(4))
        self._workspace = Workspace(
            mix, instance, curve, horizon=FOREVER, batches_per_step=self.batches, rows=8,
            classes=classes,
        )  # fmt: skip

    def march(self, out: NDArray, present: Present, tokens: float) -> Marched:
        """Write a forecast; see :meth:`ode.Forecaster.march`."""
        space, most = self._workspace, out.shape[1]
        while len(space.rows) < most:
            space.grow(Answer.ROWS_FULL)
        # where a step is one batch, those who came since join it by their classes; where it is
        # several, they come by the arrival curve, which lets them join within a step
        joins = self.batches == 1 and present.fresh > 0.0
        by_curve = 0.0 if joins else present.fresh
        space.knots[1:3] = present.now
        space.cumulative[2] = by_curve
        space.cumulative[3] = by_curve + max(present.rate, NOBODY) * FOREVER
        record = space.record
        begin = self._within(present.running), self._within(present.stopped)
        queued = np.ascontiguousarray(present.waiting[:, [0, 3]])
        while (
            seed(record, *begin, 0.0, 0.0) != Answer.DONE
            or push_waiting(record, queued) != Answer.DONE
        ):
            space.grow(Answer.QUEUE_FULL)
        first = number_of_last(record)
        number = first + present.fresh
        if joins:
            self._go_on(out, 1, first, number, tokens)
            arriving = np.ascontiguousarray(present.arriving[:, [0, 3]])
            while push_waiting(record, arriving) != Answer.DONE:
                space.grow(Answer.QUEUE_FULL)
            first = number
        self._go_on(out, most, first, number, tokens)
        steps = int(record[0]["steps"])
        rows = space.rows[:steps]
        out[START, :steps] = out[DECIDED, :steps] = rows[:, R_START]
        out[DURATION, :steps] = rows[:, R_DURATION]
        return self._marched(rows, number)

    def _go_on(self, out: NDArray, most: int, first: float, number: float, tokens: float) -> None:
        """March up to so many steps; see :func:`ode.lagrangian.reach.march_reach`."""
        space = self._workspace
        while True:
            answer = march_reach(
                space.record,
                first,
                out[REACH],
                most,
                number,
                number + self._long,
                tokens,
                1.0 + self.mean_prompt,
            )
            if answer == Answer.STALLED:
                raise SolveError("lagrangian", "stalled", "a batch takes no time; give d_0 > 0")
            if answer in (Answer.DONE, Answer.STEP_LIMIT):
                break
            space.grow(Answer(answer))

    def _within(self, histogram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a histogram of which nobody is older than the mix allows: longer answers come."""
        of = histogram[:, HISTOGRAM_OF].astype(np.int64)
        out = np.array(histogram)
        out[:, 1:3] = np.minimum(histogram[:, 1:3], self._oldest[of, None])
        return out

    def _marched(self, rows: NDArray[np.float64], first: float) -> Marched:
        if not len(rows):
            return Marched(0, first, *NO_PROMPT, np.inf, *[0.0] * 9)
        middle = rows[len(rows) // 2]
        line = self._node.batch_time.tangent(middle[R_TOKENS], middle[R_SIZE])
        cost, slope = line.per_request + line.per_token, line.per_token
        is_free = middle[R_TOKENS] < FILLED * self._node.token_budget
        own = (cost, slope, slope) if is_free else (0.0, 0.0, 0.0)
        return Marched(
            len(rows),
            first,
            *NO_PROMPT,
            np.inf,
            0.0,
            0.0,
            0.0,
            *own,
            cost,
            slope,
            float(middle[R_SIZE]),
        )


def _long_prompt(mix: RequestMix) -> float:
    """Return a prompt [tokens] that a share :data:`LONG_SHARE` of the requests does not exceed."""
    order = np.argsort(mix.prefill)
    below = np.cumsum(mix.probability[order])
    return float(mix.prefill[order][min(int(np.searchsorted(below, LONG_SHARE)), len(mix) - 1)])


@answers("decode_node")
def forecaster(
    mix: RequestMix, instance: DecodeNode, classes: Sequence[RequestMix] = ()
) -> Forecaster:
    """Return what forecasts an instance from its present state.

    Parameters
    ----------
    mix
        Lengths of the requests, those that run included.
    instance
        The instance.
    classes
        Lengths of the classes 1, 2, ... of which requests may be that are there; who arrives is of
        ``mix``, which is class 0.

    Raises
    ------
    UnsupportedError
        If no fluid model of the kind of instance makes forecasts, or a policy of the instance is
        not modelled.
    """
    policy_labels(instance)
    return DecodeNodeForecaster(mix, instance, classes)
