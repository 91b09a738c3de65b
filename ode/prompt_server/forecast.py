"""Forecasts of a server that computes its own prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server import life
from ode._forecast import (
    DECIDED,
    DURATION,
    FOREVER,
    START,
    Forecaster,
    Marched,
    Present,
)
from ode.lagrangian.layout import R_RUNNING
from ode.prompt_server.labels import policy_labels
from ode.prompt_server.layout import Answer
from ode.prompt_server.reach import held_by, march_reach, seed
from ode.prompt_server.workspace import Workspace
from serving import RateProfile, RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

KNOWN_STEPS = 8
"""Steps [steps] whose prompts may be those of who is there."""

LONG = 8.0
"""Of a mean prompt, a prompt that is long."""

MANY = 1e6
"""Pairs of tokens that attend to one another, whose time is told from none."""

BEFORE = -1e9
"""Before the decision of any batch under way [time]."""


class PromptServerForecaster:
    """Forecasts of a server, see :class:`ode.Forecaster`; classes of lengths make no difference."""

    batches = 1

    def __init__(self, mix: RequestMix, instance: PromptServer) -> None:
        of = life(mix, instance)
        # who is preempted keeps its answer so far, and computes its KV again
        self.again, self.ahead = False, instance.is_ahead
        self.unit = self.mean_prompt = max(1.0, of.prompt.tokens)
        self._server, self._context = instance, of.context / max(of.stay, 1e-12)
        self._fade = max(of.stay, 1.0)
        self._attention = of.prompt.attention / max(of.prompt.tokens, 1e-12)
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
        surplus = 0.0
        if present.kv_used is not None:
            surplus = present.kv_used - present.kv_begun - float(held_by(record))
        while True:
            answer = Answer(march_reach(record, out, most, last, tokens, surplus, self._fade))
            if answer == Answer.STALLED:
                raise SolveError("lagrangian", "stalled", "a step takes no time; give d_0 > 0")
            if answer == Answer.STUCK:
                message = "no request that waits ever fits into the KV"
                raise SolveError("lagrangian", "stuck", message)
            if answer != Answer.FULL:
                break
            space.enlarge()
        self._price_known(out, int(s["steps"]), present, queued - late, late)
        return self._marched(int(s["steps"]), last, present)

    def _price_known(
        self, out: NDArray, steps: int, present: Present, early: float, late: float
    ) -> None:
        """Price the first steps by the prompts that are known to be in them, where they fit.

        The march takes the requests of a step as a mean about which chance scatters them. Who is
        there already is no chance.
        """
        known = (early, late, present.fresh) if self.ahead else (early + late, present.fresh)
        left = 0.0
        for k in range(min(steps, KNOWN_STEPS)):
            left += known[k] if k < len(known) else 0.0
            began = self._space.admitted(k)
            taken = min(left, began)
            if taken <= 1e-9:
                continue
            left -= taken
            running = max(0.0, float(self._space.rows[k, R_RUNNING]) - began)
            duration = self._step(running, taken * self.unit)
            out[START, k + 1 : steps] += duration - out[DURATION, k]
            out[DECIDED, k + 1 + self.ahead : steps] += duration - out[DURATION, k]
            out[DURATION, k] = duration

    def _step(self, decodes: float, prefill: float) -> float:
        """Return the time of a step with so many decodes and prompt tokens."""
        attention = prefill * self._attention
        context = decodes * self._context
        return float(
            self._server.batch_time.step_duration(decodes, context, prefill, attention, 0.0)
        )

    def _square(self, decodes: float) -> float:
        """Return what the square of a prompt adds to a step [time/token^2].

        Each of its tokens attends to half of them.
        """
        law, context = self._server.batch_time, decodes * self._context
        with_it, without = (
            float(law.step_duration(decodes, context, 1.0, pairs, 0.0)) for pairs in (MANY, 0.0)
        )
        return 0.5 * (with_it - without) / MANY

    def _marched(self, steps: int, number: float, present: Present) -> Marched:
        law, size = self._server.batch_time, 1.0
        if steps:
            size = max(1.0, float(self._space.rows[steps // 2, R_RUNNING]))
        line = law.tangent(size * self._context, size)
        one, whole = self._step(size, 1.0), self._step(size, self.unit)
        square = self._square(size)
        whole -= 2.0 * self._attention * self.unit * square
        slope = (whole - one) / max(self.unit - 1.0, 1.0)
        # who computes a prompt anyhow has paid for there being one
        alone = np.exp(-(present.fresh + present.rate * one)) if self.unit > 1.0 else 0.0
        fixed = float(alone) * max(0.0, one - self._step(size, 0.0) - slope)
        per_token = line.per_token
        decode = line.per_request + per_token
        room = max(1.0, self._server.step_tokens - size)
        far = max(min(room, LONG * self.unit), self.unit + 1.0)
        beyond = (self._step(size, far) - self._step(size, self.unit)) / (far - self.unit)
        beyond -= 2.0 * self._attention * square
        return Marched(
            steps,
            number,
            fixed,
            slope,
            beyond,
            square,
            room,
            one - slope,
            decode,
            per_token,
            per_token,
            decode,
            per_token,
            size,
        )


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
