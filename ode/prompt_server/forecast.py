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
    PROMPT_KNOTS,
    START,
    Forecaster,
    Marched,
    Present,
)
from ode.lagrangian.layout import R_RUNNING
from ode.prompt_server.labels import policy_labels
from ode.prompt_server.layout import Answer
from ode.prompt_server.prompts import Prompts
from ode.prompt_server.reach import held_by, march_reach, seed
from ode.prompt_server.workspace import Workspace
from serving import RateProfile, RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

KNOWN_STEPS = 8
"""Steps [steps] whose prompts may be those of who is there."""

MANY = 1e6
"""Tokens, or pairs of them, whose time is told from that of none."""

RARE = float(np.log(2.0))
"""Requests [requests] expected by a step below which it is more likely that none has come."""

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
        again = float(present.again.sum()) / self.unit
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
        steps = int(s["steps"])
        self._read_surplus(out, steps, surplus)
        waiting = np.concatenate((present.again, present.prompts))
        prompts = Prompts(waiting, 0.0 if again else present.computed)
        self._price_known(out, steps, present, queued - late, late, surplus, prompts)
        return self._marched(steps, last, present, surplus)

    def _read_surplus(self, out: NDArray, steps: int, surplus: float) -> None:
        """Let the steps read the KV that the march does not know of; it goes with its owners."""
        per_token = self._server.batch_time.tangent(surplus, 1.0).per_token
        fading = np.maximum(0.0, 1.0 - np.arange(steps) / self._fade)
        # who holds less than is thought saves no more time than reading KV takes
        empty = float(self._server.batch_time.step_duration(0.0, 0.0, 0.0))
        most_saved = np.minimum(empty - out[DURATION, :steps], 0.0)
        longer = np.maximum(per_token * surplus * fading, most_saved)
        late = np.concatenate(([0.0], np.cumsum(longer)))
        out[DURATION, :steps] += longer
        out[START, :steps] += late[:steps]
        out[DECIDED, self.ahead : steps] += late[: max(steps - self.ahead, 0)]

    def _price_known(
        self,
        out: NDArray,
        steps: int,
        present: Present,
        early: float,
        late: float,
        surplus: float,
        prompts: Prompts,
    ) -> None:
        """Price the first steps by the prompts that are known to be in them, where they fit.

        The march takes the requests of a step as a mean about which chance scatters them. Who is
        there already is no chance, and who is still to come is mostly not there yet: a long prompt
        that comes into the same step is rare and dear, so that a mean would be above most truths.
        """
        known = (early, late, present.fresh) if self.ahead else (early + late, present.fresh)
        left = expected = 0.0
        for k in range(min(steps, KNOWN_STEPS)):
            left += known[k] if k < len(known) else 0.0
            began = self._space.admitted(k)
            taken = min(left, began)
            expected += began - taken
            if taken <= 1e-9 and expected > RARE:
                continue
            left -= taken
            running = max(0.0, float(self._space.rows[k, R_RUNNING]) - began)
            duration = self._step(running, taken * self.unit, surplus, prompts)
            out[START, k + 1 : steps] += duration - out[DURATION, k]
            out[DECIDED, k + 1 + self.ahead : steps] += duration - out[DURATION, k]
            out[DURATION, k] = duration

    def _step(
        self, decodes: float, prefill: float, surplus: float, prompts: Prompts | None = None
    ) -> float:
        """Return the time of a step with so many decodes and prompt tokens.

        The tokens are the next ones of known prompts, or those of prompts like all.
        """
        attention = held = 0.0
        unknown = prefill
        if prompts is not None:
            attention, held, unknown = prompts.take(prefill)
        attention += unknown * self._attention
        context = max(0.0, decodes * self._context + surplus) + prefill
        return float(
            self._server.batch_time.step_duration(decodes, context, prefill, attention, held)
        )

    def _first(
        self, decodes: float, known: float, room: float, surplus: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return prompts [tokens], and what each adds to a step with known prompt tokens [time].

        Each token of a prompt attends to half of it. Among the prompts are those at which the law
        of the step changes its slope, since that may be a jump.
        """
        law = self._server.batch_time
        there = decodes + known
        bends = np.array(law.computed_bends) - there
        grid = np.concatenate(([0.0, room], bends[(bends > 0) & (bends < room)]))[:PROMPT_KNOTS]
        even = np.geomspace(1.0, max(room, 2.0), PROMPT_KNOTS - grid.size + 1)[:-1]
        prompts = np.sort(np.concatenate((grid, even)))
        attention = known * self._attention + 0.5 * prompts * prompts
        context = max(0.0, decodes * self._context + surplus) + known + prompts
        first = law.step_duration(decodes, context, known + prompts, attention, 0.0)
        without = self._step(decodes, known, surplus)
        return prompts, np.where(prompts > 0.0, first - without, 0.0)

    def _per_held(self, decodes: float) -> tuple[float, float]:
        """Return what a chunk costs by what its prompt held before, and by each pair of tokens."""
        law, context = self._server.batch_time, decodes * self._context
        without = law.step_duration(decodes, context, 1.0)
        held = law.step_duration(decodes, context, 1.0, 0.0, MANY) - without
        pairs = law.step_duration(decodes, context, 1.0, MANY) - without
        return float(held) / MANY, float(pairs) / MANY

    def _marched(self, steps: int, number: float, present: Present, surplus: float) -> Marched:
        law, size, joined = self._server.batch_time, 1.0, 0.0
        if steps:
            size = max(1.0, float(self._space.rows[steps // 2, R_RUNNING]))
            # a request that comes now joins the next step but one where steps are decided ahead
            joined = float(self._space.rows[min(1 + self.ahead, steps - 1), R_RUNNING])
        line = law.tangent(size * self._context, size)
        per_token = line.per_token
        decode = line.per_request + per_token
        room = max(1.0, self._server.step_tokens - size)
        return Marched(
            steps,
            number,
            *self._first(joined, present.fresh * self.unit, room, surplus),
            room,
            self._step(size, 0.0, 0.0),
            *self._per_held(size),
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
