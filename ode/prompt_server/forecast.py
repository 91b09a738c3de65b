"""Forecasts of a server that computes its own prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server import life
from ode._forecast import FOREVER, Forecaster, Marched, Present
from ode.lagrangian.layout import R_RUNNING
from ode.prompt_server.labels import policy_labels
from ode.prompt_server.layout import Answer
from ode.prompt_server.reach import march_reach, seed
from ode.prompt_server.workspace import Workspace
from serving import RateProfile, RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

BEFORE = -1e9
"""Before the decision of any batch under way [time]."""


class PromptServerForecaster:
    """Forecasts of a server, see :class:`ode.Forecaster`; classes of lengths make no difference."""

    batches = 1

    def __init__(self, mix: RequestMix, instance: PromptServer) -> None:
        of = life(mix, instance)
        self.again, self.ahead = not instance.swaps, instance.is_ahead
        self.unit = max(1.0, of.prompt.tokens)
        self._server, self._context = instance, of.context / max(of.stay, 1e-12)
        curve = RateProfile(np.array([0.0, 0.0, 0.0, 0.0, 0.0, FOREVER]), np.zeros(6))
        self._space = Workspace(mix, instance, curve, horizon=FOREVER, end=FOREVER)
        self._space.knots[0] = BEFORE

    def march(self, out: NDArray, present: Present, tokens: float) -> Marched:
        """Write a forecast; see :meth:`ode.Forecaster.march`."""
        space, most = self._space, out.shape[1]
        record, s = space.record, space.record[0]
        while s["rows_size"] < int(s["ages"]) + most + 2:
            space.enlarge()
        # who was preempted computes its prompt and its answer so far again, before all others
        stopped = present.stopped
        again = float((stopped[:, 0] * (1.0 + stopped[:, 1] / self.unit)).sum())
        queued, late = present.queued + again, present.late if self.ahead else 0.0
        last = queued + present.fresh
        space.knots[3:5] = present.now
        space.cumulative[:2] = queued - late
        space.cumulative[2:4] = queued
        space.cumulative[4] = last
        space.cumulative[5] = last + present.rate * (FOREVER - present.now)
        seed(record, np.ascontiguousarray(present.running[:, :2]))
        s["now"] = -present.before if self.ahead else 0.0
        while True:
            answer = Answer(march_reach(record, out, most, last, tokens))
            if answer == Answer.STALLED:
                raise SolveError("lagrangian", "stalled", "a step takes no time; give d_0 > 0")
            if answer == Answer.STUCK:
                message = "no request that waits ever fits into the KV"
                raise SolveError("lagrangian", "stuck", message)
            if answer != Answer.FULL:
                break
            space.enlarge()
        return self._marched(int(s["steps"]), last)

    def _marched(self, steps: int, number: float) -> Marched:
        law = self._server.batch_time
        size = float(self._space.rows[steps // 2, R_RUNNING]) if steps else 1.0
        size = max(size, 1.0)
        line = law.tangent(size * self._context, size)
        prompt = self.unit
        bare = float(law.mixed_duration(size, size * self._context, 0))
        first = float(law.mixed_duration(size, size * self._context, prompt)) - bare
        slope = line.per_token
        return Marched(steps, number, first / prompt, line.per_request + slope, slope, slope)


@answers(MODEL)
def forecaster(
    mix: RequestMix, instance: PromptServer, classes: Sequence[RequestMix] = ()
) -> Forecaster:
    """Return what forecasts a server from its present state, see :func:`ode.forecaster`.

    Raises
    ------
    UnsupportedError
        If the server has a setting that is not modelled.
    """
    policy_labels(instance)
    return PromptServerForecaster(mix, instance)
