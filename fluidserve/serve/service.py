"""What the service does: the predictor behind its three operations, and what guards its state."""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fluidserve.serve.bodies import Refusal
from fluidserve.serve.fields import number_of
from fluidserve.serve.messages import MOST_CANDIDATES, Ask, Enqueue, Sync
from scheduling import (
    BatchTrace,
    CorrectedPredictor,
    Prediction,
    Predictions,
    Predictor,
    SeldomToldPredictor,
)
from scheduling.instance_state import InstanceState

MOST_PRESENT = 100_000
"""Requests of an instance of which nobody has said that they ended."""

MOST_LOST = 10_000
"""Reports in a row that may be missing: after more, nobody is believed to be there any longer.

Of instances that report seldom any number may be."""

MOST_RECENT = 2000
"""Requests whose predictions are remembered until they are sent: their truth teaches bounds."""

WARNINGS = logging.getLogger("fluidserve.serve")

TOLD = ("applied", "duplicate", "late", "lost", "unknown")


@dataclass(slots=True)
class Service:
    """The predictor and what is known of its calls.

    Parameters
    ----------
    predictor
        Of the fleet.
    time_unit
        Of all times.
    corrector
        Of the predictor's answers, or None.
    restored
        Whether its state came from a snapshot.
    """

    predictor: Predictor
    time_unit: str
    corrector: CorrectedPredictor | None = None
    restored: bool = False
    changes: int = 0
    predictions: int = 0
    failed: int = 0
    latest: float = -math.inf
    _recent: OrderedDict[int, list[Predictions]] = field(default_factory=OrderedDict)

    @property
    def _asked_of(self) -> Predictor | CorrectedPredictor:
        """Who hears and answers."""
        return self.predictor if self.corrector is None else self.corrector

    def enqueue(self, messages: Sequence[Enqueue]) -> int:
        """Note that requests were sent; all of them or none.

        Raises
        ------
        Refusal
            If there is no such instance, or too much is there that nobody reports of.
        """
        for each in messages:
            self._known(each.instance_id)
        for each in messages:
            self._has_room(each.instance_id)
        for each in messages:
            self._at(each.ts)
            meta, state = each.request_meta.meta(), self.predictor.states[each.instance_id]
            was_there = state.has(meta.request_id)
            self._asked_of.enqueue_request(each.instance_id, meta, each.ts)
            found = self._foretold(meta.request_id, each.instance_id)
            if found is not None and not was_there:
                self._asked_of.remember(found, each.instance_id, meta, each.ts)
        self.changes += 1
        return len(messages)

    def _has_room(self, instance_id: int, more: int = 0) -> None:
        """Refuse what would let an instance have more requests than anybody can have."""
        state = self.predictor.states[instance_id]
        there = len(state.waiting) + len(state.running) + len(state.stopped)
        if there + more >= MOST_PRESENT:
            raise Refusal(
                409, f"instance {instance_id} has {MOST_PRESENT} requests that nobody has "
                "reported to end; send its reports, or call /v1/forget_instance",
            )  # fmt: skip

    def _foretold(self, request_id: int, instance_id: int) -> Predictions | None:
        """Return what was predicted for a request, whoever else has asked since."""
        of_it = self._recent.pop(request_id, ())
        return next((each for each in of_it if instance_id in each.instances), None)

    def sync(self, messages: Sequence[Sync]) -> dict[str, int]:
        """Take reports, all of them or none; return how they came in.

        Raises
        ------
        Refusal
            If there is no such instance, or too many begin that nobody had announced.
        """
        unknown: Counter[int] = Counter()
        for each in messages:
            i = each.instance_id
            self._known(i)
            trace, has = each.batch_trace, self.predictor.states[i].has
            unknown[i] += sum(not has(number_of(x)) for x in trace.started)
            if unknown[i]:
                self._has_room(i, unknown[i])
        told: dict[str, int] = dict.fromkeys(TOLD, 0)
        is_seldom = isinstance(self.predictor, SeldomToldPredictor)
        for each in messages:
            state, trace = self.predictor.states[each.instance_id], each.batch_trace.trace()
            before = {name: getattr(state.counts, name) for name in told}
            if _is_anew(state, trace):
                WARNINGS.warning(
                    "instance %d numbers its batches anew, at %d after %d: who was sent before is "
                    "believed to be gone", each.instance_id, trace.batch_id, state.batch_id,
                )  # fmt: skip
                self._forget(each.instance_id, since=state.boundary)
                state = self.predictor.states[each.instance_id]
            lost = trace.batch_id - state.batch_id - 1
            if not is_seldom and state.batch_id >= 0 and lost >= MOST_LOST:
                self._forget(each.instance_id)
                state = self.predictor.states[each.instance_id]
                state.counts.lost += lost
            at = trace.end if each.ts is None else each.ts
            self._at(at)
            self._asked_of.sync_batch_result(each.instance_id, trace, at)
            for name in told:
                told[name] += getattr(state.counts, name) - before[name]
        self.changes += 1
        return told

    def forget(self, instance_id: int) -> None:
        """Let an instance begin anew."""
        self._known(instance_id)
        self._forget(instance_id)
        self.changes += 1

    def _forget(self, instance_id: int, since: float = math.inf) -> None:
        self._asked_of.forget_instance(instance_id, since)

    def predict(self, ask: Ask) -> list[dict[str, Any]]:
        """Return predictions, request by request.

        Raises
        ------
        Refusal
            If there is no such instance, or too many candidates are asked for.
        """
        requests = ask.request_meta if isinstance(ask.request_meta, list) else [ask.request_meta]
        asked = self._asked(ask)
        size = len(self.predictor.instances) if asked == [None] else len(asked)
        if size * len(requests) > MOST_CANDIDATES:
            raise Refusal(422, f"{len(requests)} requests on {size} instances are more than "
                          f"{MOST_CANDIDATES} candidates")  # fmt: skip
        self._at(ask.ts)
        out: list[dict[str, Any]] = []
        for each in requests:
            meta = each.meta()
            found = [self._asked_of.predict(i, meta, ask.ts, ask.action_hint) for i in asked]
            out += [_told(each.request_id, one) for of in found for one in of]
            self._recent.pop(meta.request_id, None)
            self._recent[meta.request_id] = found
        while len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)
        self.predictions += len(out)
        self.failed += sum(each["confidence"] == "failed" for each in out)
        return out

    def corrections(self) -> dict[str, Any]:
        """Return what the corrector has learnt."""
        learnt = [] if self.corrector is None else self.corrector.corrections()
        return {
            "corrector": self.corrector is not None,
            "corrections": [asdict(each) for each in learnt],
        }

    def stale(self) -> list[int]:
        """Return instances whose reports stay away, as of the latest time that anybody told."""
        return self.predictor.stale(self.latest) if self.latest > -math.inf else []

    def _asked(self, ask: Ask) -> list[int] | list[None]:
        """Return the instances that are asked for; None stands for all."""
        if ask.instance_id == "all":
            return [None]
        asked = ask.instance_id if isinstance(ask.instance_id, list) else [ask.instance_id]
        for each in asked:
            assert isinstance(each, int)
            self._known(each)
        return asked  # type: ignore[return-value]

    def _known(self, instance_id: int) -> None:
        size = len(self.predictor.instances)
        if instance_id >= size:
            raise Refusal(404, f"instance_id: {instance_id} is not in the fleet; allowed: 0 to "
                          f"{size - 1}")  # fmt: skip

    def _at(self, ts: float) -> None:
        self.latest = ts  # a clock that was ahead once is not believed for ever


def _is_anew(state: InstanceState, trace: BatchTrace) -> bool:
    """Return whether an instance counts from 0 again: a late report tells of an earlier batch."""
    return trace.batch_id <= state.batch_id and trace.end - trace.duration > state.boundary


def _told(request_id: int | str, found: Prediction) -> dict[str, Any]:
    """Return a prediction for JSON; there is no infinity in it, and null is written instead."""
    return {
        "request_id": request_id, "instance_id": found.instance_id, "ttft": found.ttft,
        "tpot": found.tpot, "e2el": found.e2el, "ttft_bounds": found.ttft_bounds,
        "e2el_bounds": found.e2el_bounds, "slo_risk": found.slo_risk,
        "externality": found.externality, "confidence": found.confidence, "level": found.level,
    }  # fmt: skip
