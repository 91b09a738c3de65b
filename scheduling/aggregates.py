"""Predictions for an instance of which only aggregates are known: counts, and KV in use.

Routers that do not follow requests tell no more. A state is made of it: who runs is as old as the
requests of an instance in equilibrium, scaled to the KV in use, who waits has prompts as expected,
and as many come as leave.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduling.answering import E2EL, TTFT, answer_all
from scheduling.instance_state import InstanceState
from scheduling.lengths import LengthModel
from scheduling.messages import RequestMeta
from scheduling.predictor import Predictor
from scheduling.running_set import AGE, COUNT, FURTHEST, OF, RunningSet
from scheduling.waiting import Waiting
from serving import ConfigError, FluidServeError, Instance, RequestMix, kind_of

SLOTS = 128
"""Forecasts that are kept: states that were asked about lately."""

AGES = 6
"""Ages that stand for the requests of a class."""

SCALED = 2.0
"""Factor by which the KV in use makes requests older at most, or younger."""

KV_STEPS = 200
"""Steps of the share of KV in use: states that differ by less are one."""


class Aggregates(NamedTuple):
    """What is known of an instance.

    Parameters
    ----------
    running, waiting : [requests]
    kv_share
        Share of the KV memory in use; 0 where nothing runs or nobody says.
    waiting_prompts : [tokens]
        Prompts of those who wait, all together; None where nobody says.
    """

    running: int
    waiting: int
    kv_share: float = 0.0
    waiting_prompts: int | None = None


class Candidate(NamedTuple):
    """A request on an instance: what is known of it, and the prompt to compute [tokens].

    ``prefix_hit`` [tokens] of the prompt are in the prefix cache there.
    """

    about: Aggregates
    prompt: int
    prefix_hit: int = 0


@dataclass(frozen=True, slots=True)
class Latencies:
    """What candidates would see.

    Parameters
    ----------
    ttft, tpot, e2el : shape (C,) [time]
        Not finite where there is no answer.
    failed
        Why there is none, by the place of the candidate.
    """

    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]
    e2el: NDArray[np.float64]
    failed: Mapping[int, str]


class AggregatePredictor:
    """Answers for one kind of instance in whatever state it is told to be.

    Parameters
    ----------
    instance, mix
        As of a :class:`Predictor`.
    arrival_rate : [requests/time]
        That is expected; None expects as many as leave.
    """

    def __init__(
        self, instance: Instance, mix: RequestMix, arrival_rate: float | None = None
    ) -> None:
        lengths = LengthModel.from_mix(mix)
        self._predictor = Predictor([instance] * SLOTS, mix, lengths=lengths)
        self.instance, self.lengths = instance, lengths
        self._rate = arrival_rate
        self._mix = mix
        limits = kind_of(instance).limits(instance)
        self._capacity = float(limits["memory"].value) if "memory" in limits else 0.0
        self._rows = _equilibrium_rows(lengths, mix)
        self._slots: OrderedDict[Aggregates, int] = OrderedDict()

    @property
    def marches(self) -> int:
        """Forecasts that were made."""
        return self._predictor.marches

    def predict(self, asked: Sequence[Candidate]) -> Latencies:
        """Say what would happen to candidates, none of which knows of the others.

        Parameters
        ----------
        asked
            At most :data:`SLOTS`.

        Raises
        ------
        ConfigError
            If there are more.
        """
        size = len(asked)
        if size > SLOTS:
            raise ConfigError("asked", size, f"at most {SLOTS} candidates")
        slots, failed = np.zeros(size, np.int64), {}
        for c, each in enumerate(asked):
            try:
                slots[c] = self._slot(each.about)
            except FluidServeError as wrong:
                failed[c] = str(wrong)
        of = self.lengths
        classes = np.array([of.part_of(each.prompt) for each in asked], np.int64)
        prompts = np.array([each.prompt - each.prefix_hit for each in asked], float)
        out = self._predictor.room_for(size)
        answer_all(
            *self._predictor.forecasts, slots, prompts, classes, of.survive, of.rest, of.marks,
            of.mean, 0.0, out,
        )  # fmt: skip
        lost = ~np.isfinite(out[:, [TTFT, E2EL]]).all(axis=1)
        if self._predictor.record.failed:
            lost |= np.isin(slots, list(self._predictor.record.failed))
        for c in np.flatnonzero(lost).tolist():
            failed.setdefault(c, "the model has no answer for an instance in this state")
        out[list(failed)] = np.nan
        more = of.mean[classes] - 1.0
        after = np.maximum(0.0, out[:, E2EL] - out[:, TTFT])
        tpot = np.divide(after, more, out=np.zeros(size), where=more > 0.0)
        return Latencies(out[:, TTFT], tpot, out[:, E2EL], failed)

    def _slot(self, about: Aggregates) -> int:
        """Return the place of a state in the fleet of states, with its forecast."""
        share = round(about.kv_share * KV_STEPS) / KV_STEPS
        key = Aggregates(about.running, about.waiting, share, about.waiting_prompts)
        found = self._slots.get(key)
        if found is not None:
            self._slots.move_to_end(key)
            return found
        state, duration = self.state_of(key)
        slot = len(self._slots)
        if slot == SLOTS:
            _, slot = self._slots.popitem(last=False)
        self._predictor.states[slot] = state
        self._predictor.march_anew(slot)
        leaves = key.running / (duration * self._mix.mean_decode) if duration > 0 else 0.0
        self._predictor.arrival_rate = leaves if self._rate is None else self._rate
        self._predictor.predict(slot, RequestMeta(0, 1), 0.0)
        self._slots[key] = slot
        return slot

    def state_of(self, about: Aggregates) -> tuple[InstanceState, float]:
        """Return the state that aggregates stand for, and how long its batches take [time].

        It is asked about at time 0. Nobody says how long the batch under way has run: half of it,
        on average.
        """
        state = InstanceState(batch_id=0)
        tokens = 0.0
        if about.running:
            groups = self._groups(about)
            state.running = RunningSet.of_groups(groups)
            tokens = float(groups[:, COUNT] @ (self._prompts[groups[:, OF].astype(int)]
                                               + groups[:, AGE] + 1.0))  # fmt: skip
        duration = float(self.instance.batch_time.duration(tokens, about.running))
        if about.running or about.waiting:
            state.boundary, state.last_duration = -0.5 * duration, duration
        if about.waiting:
            prompt, of = self._waiting_prompt(about)
            entry = Waiting(prompt, of, state.boundary)
            state.waiting = dict.fromkeys(range(1, about.waiting + 1), entry)
            state.waiting_tokens = float(prompt * about.waiting)
            state.queue = RunningSet.of_groups(np.array([[about.waiting, 0.0, 0.0, of]]))
        if about.kv_share > 0 and self._capacity > 0:
            state.kv_used = about.kv_share * self._capacity
        state.num_running = float(about.running)
        return state, duration

    @property
    def _prompts(self) -> NDArray[np.float64]:
        """Mean prompt of each class of lengths, the whole mix first [tokens]."""
        return np.array([self._mix.mean_prefill, *(p.mean_prefill for p in self.lengths.parts)])

    def _groups(self, about: Aggregates) -> NDArray[np.float64]:
        """Return the groups of those who run, the oldest first, as old as the KV in use tells."""
        groups = self._rows.copy()
        groups[:, COUNT] *= about.running
        of = groups[:, OF].astype(int)
        used = about.kv_share * self._capacity
        if used > 0:
            prompts, ages = groups[:, COUNT] @ self._prompts[of], groups[:, COUNT] @ groups[:, AGE]
            # what is not explained by ages may be long or short prompts
            groups[:, AGE] *= min(max((used - prompts) / ages, 1.0 / SCALED), SCALED)
        oldest = np.array([float(each.longest_decode - 1) for each in self.lengths.parts])
        groups[:, AGE] = np.clip(groups[:, AGE], 0.0, oldest[of - 1])
        groups[:, FURTHEST] = groups[:, AGE]
        return groups

    def _waiting_prompt(self, about: Aggregates) -> tuple[int, int]:
        """Return the prompt of each who waits [tokens], and its class."""
        if about.waiting_prompts is None:
            return round(self._mix.mean_prefill), 0
        prompt = about.waiting_prompts / about.waiting
        return round(prompt), 1 + self.lengths.part_of(prompt)


def _equilibrium_rows(lengths: LengthModel, mix: RequestMix) -> NDArray[np.float64]:
    """Return groups of one running request in equilibrium, the oldest first.

    Of a class there are as many as come, times as long as they stay; the age of one is as likely
    as an answer longer than it.
    """
    rows: list[Sequence[float]] = []
    came = np.bincount(
        np.searchsorted(lengths.edges, mix.prefill, side="right"), mix.probability,
        minlength=len(lengths.parts),
    ) * [each.mean_decode for each in lengths.parts]  # fmt: skip
    for c, share in enumerate((came / came.sum()).tolist()):
        below = np.cumsum(lengths.survive[c]) / lengths.survive[c].sum()
        for k in range(AGES):
            age = float(np.searchsorted(below, (k + 0.5) / AGES))
            rows.append((share / AGES, age, age, c + 1.0))
    return np.array(sorted(rows, key=lambda row: -row[AGE]))
