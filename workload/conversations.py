"""Make requests the turns of conversations that repeat what was said before."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, Contents, RequestMix, RequestTable, WorkloadError
from serving.arguments import check_fields
from workload.lengths import picked

MOST_GOING_ON = 10**8
"""Conversations that can go on at a time."""

AT_ONCE = 1024
"""Random numbers that are drawn at once."""


class _Said(NamedTuple):
    """What was said in a conversation before its next turn, which is sent at ``due``."""

    due: float
    number: int
    turns: int
    ids: list[int]
    lengths: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """Conversations whose turns are the requests of a workload.

    A conversation begins when the workload says so. Its client sends the next turn when it has got
    the answer and has thought about it. Either the client waits for the answer that the engine
    gives; then nothing was said before time 0. Or nobody waits: how long an answer takes is stated,
    and conversations that began before time 0 go on after it.

    Parameters
    ----------
    turn_mix
        Joint distribution of what a client says in a turn (``prefill``) and of the answer
        (``decode``) [tokens].
    turns
        Turns of every conversation.
    think_time : [time]
        Mean of the exponential time from an answer to the client's next turn.
    answer_token_time : [time/token]
        How long the answer takes per token.
    system_prompts
        How many system prompts there are; a conversation begins with one of them, each as likely.
    system_prompt_length : [tokens]
        Length of each.
    waits
        Whether clients wait for the answers of the engine.
    clients
        Where they do: so many clients have one conversation after another, and nobody else comes.

    Raises
    ------
    ConfigError
        If a number is not allowed, or says nothing beside the others.
    """

    turn_mix: RequestMix
    turns: int = 1
    think_time: float | None = None
    answer_token_time: float | None = None
    system_prompts: int | None = None
    system_prompt_length: int | None = None
    waits: bool = False
    clients: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _whole("turns", self.turns, 1)
        for key in ("think_time", "answer_token_time"):
            value = getattr(self, key)
            if value is None:
                continue
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(key, value, "a finite number >= 0")
            if self.turns == 1 and self.clients is None:
                raise ConfigError(key, value, "only beside turns above 1")
        if self.turns > 1 and self.think_time is None:
            raise ConfigError("turns", self.turns, "above 1 only beside think_time")
        self._check_waiting()
        pair = (self.system_prompts, self.system_prompt_length)
        for key, value, other in zip(
            ("system_prompts", "system_prompt_length"), pair, reversed(pair), strict=True
        ):
            if value is not None:
                _whole(key, value, 1)
                if other is None:
                    raise ConfigError(
                        key, value, "only together: system_prompts and system_prompt_length"
                    )

    def _check_waiting(self) -> None:
        if self.clients is not None:
            _whole("sessions", self.clients, 1)
        if self.waits and self.answer_token_time is not None:
            raise ConfigError(
                "answer_token_time", self.answer_token_time,
                "not given beside closed_loop, where answers take as long as the engine does",
            )  # fmt: skip
        if self.waits and self.turns == 1 and self.clients is None:
            raise ConfigError("closed_loop", True, "only beside turns above 1, or sessions")

    def mix(self) -> RequestMix:
        """Return the mix of the requests: the prompt of a turn holds all that was said before.

        Of what was said before only the mean is in it, which is all that the work of a batch
        depends on; so prefill lengths are means.
        """
        said, system = self.turn_mix, self.system_prompt_length or 0
        before = np.arange(self.turns) * (said.mean_prefill + said.mean_decode)
        prefill = system + before[:, np.newaxis] + said.prefill
        return RequestMix.from_lengths(
            prefill.ravel(),
            np.tile(said.decode, self.turns),
            np.tile(said.probability, self.turns),
            np.tile(said.request_class, self.turns),
        )

    @property
    def gap(self) -> float:
        """Mean time from a turn to the next [time]."""
        answer = self.turn_mix.mean_decode * (self.answer_token_time or 0.0)
        return (self.think_time or 0.0) + answer

    def rate_of(self, sessions: int) -> float:
        """Return the rate [requests/time] at which so many conversations go on at a time.

        Raises
        ------
        ConfigError
            If no conversation goes on: it has one turn, or takes no time.
        """
        _whole("sessions", sessions, 1)
        if self.turns == 1:
            raise ConfigError("sessions", sessions, "only beside turns above 1")
        if self.gap == 0:
            raise ConfigError("sessions", sessions, "only where turns are some time apart")
        return sessions * self.turns / ((self.turns - 1) * self.gap)

    def stretched(self, factor: float) -> Conversations:
        """Return the conversations with time multiplied by ``factor``."""
        times = {
            key: None if value is None else value * factor
            for key in ("think_time", "answer_token_time")
            for value in (getattr(self, key),)
        }
        return replace(self, **times)

    def drawn(
        self,
        starts: NDArray[np.float64],
        rate: float,
        seeds: Sequence[np.random.SeedSequence],
        *,
        most: int | None,
        horizon: float,
    ) -> RequestTable:
        """Return the requests of conversations in order of arrival.

        Parameters
        ----------
        starts : [time]
            When conversations begin, in order.
        rate : [requests/time]
            At which requests arrived before time 0.
        seeds
            Four: of lengths, of times to think, of system prompts, and of what happened before
            time 0.
        most
            Stop after so many requests.
        horizon : [time]
            Stop after this time.
        """
        said, thinking, choosing, earlier = (np.random.Generator(np.random.PCG64(s)) for s in seeds)
        mix, systems = self.turn_mix, self.system_prompts or 0
        waiting = self._going_on(rate, earlier)
        heapq.heapify(waiting)
        fresh = 1 + systems + sum(len(each.ids) for each in waiting)
        begin = zip(starts.tolist(), _whole_numbers(choosing, systems), strict=False)
        following = next(begin, None)
        times: list[float] = []
        atoms: list[int] = []
        ids: list[int] = []
        lengths: list[int] = []
        ends = [0]
        draws = zip(_atoms(mix, said), _exponentials(thinking), strict=True)
        while most is None or len(times) < most:
            if following is not None and not (waiting and waiting[0].due <= following[0]):
                now = self._begun(following[0], len(times), following[1])
                following = next(begin, None)
            elif waiting:
                now = heapq.heappop(waiting)
            else:
                break
            if now.due > horizon:
                break
            atom, think = next(draws)
            i, answer = len(times), int(mix.decode[atom])
            spoken, length = [*now.ids, fresh + 2 * i], [*now.lengths, int(mix.prefill[atom])]
            times.append(now.due)
            atoms.append(atom)
            ids += spoken
            lengths += length
            ends.append(len(ids))
            if now.turns + 1 < self.turns:
                wait = think * (self.think_time or 0.0) + answer * (self.answer_token_time or 0.0)
                spoken.append(fresh + 2 * i + 1)
                length.append(answer)
                heapq.heappush(waiting, _Said(now.due + wait, i, now.turns + 1, spoken, length))
        if not times:
            raise WorkloadError(f"no request arrives by time {horizon:g}")
        answers = fresh + 1 + 2 * np.arange(len(times))
        total = np.concatenate(([0], np.cumsum(lengths)))[ends]
        return RequestTable.validated(
            times,
            np.diff(total),
            mix.decode[atoms],
            request_class=mix.request_class[atoms],
            contents=Contents.validated(ends, np.array(ids), np.array(lengths), answers),
        )

    def _begun(self, time: float, number: int, system: int) -> _Said:
        """Return a conversation of which nothing but its system prompt was said."""
        if system == 0:
            return _Said(time, number, 0, [], [])
        return _Said(time, number, 0, [system], [self.system_prompt_length or 0])

    def _going_on(self, rate: float, rng: np.random.Generator) -> list[_Said]:
        """Return the conversations that go on at time 0, as they are when this has lasted long.

        Their number is Poisson, and each is as likely to be after any of its turns but the last. A
        time between two turns is the likelier to hold time 0 the longer it is, and time 0 lies
        anywhere in it.
        """
        mean = rate * (self.turns - 1) / self.turns * self.gap
        if mean > MOST_GOING_ON:
            raise WorkloadError(
                f"{mean:.3g} conversations at a time are too many; allowed: <= {MOST_GOING_ON:g}"
            )
        if mean == 0:
            return []
        mix, fresh = self.turn_mix, 1 + (self.system_prompts or 0)
        think, per_token = self.think_time or 0.0, self.answer_token_time or 0.0
        turns = rng.integers(1, self.turns, int(rng.poisson(mean)))
        systems = rng.integers(1, fresh, turns.size) if fresh > 1 else np.zeros(turns.size, int)
        atoms = picked(mix.probability, rng.random(int(turns.sum())))
        last = np.cumsum(turns) - 1
        weight = mix.probability * (think + per_token * mix.decode)
        atoms[last] = picked(weight / weight.sum(), rng.random(turns.size))
        answer = per_token * mix.decode[atoms[last]]
        in_answer = rng.random(turns.size) * (answer + think) < answer
        left = rng.exponential(1.0, turns.size) * think
        left = left + in_answer * rng.random(turns.size) * answer
        lengths = np.column_stack([mix.prefill[atoms], mix.decode[atoms]]).astype(int).tolist()
        out, number = [], 0
        for k, (due, count) in enumerate(zip(left.tolist(), turns.tolist(), strict=True)):
            begun = self._begun(due, k - turns.size, int(systems[k]))
            for said in lengths[number : number + count]:
                begun.lengths.extend(said)
            begun.ids.extend(range(fresh + 2 * number, fresh + 2 * (number + count)))
            number += count
            out.append(begun._replace(turns=count))
        return out


def _atoms(mix: RequestMix, rng: np.random.Generator) -> Iterator[int]:
    """Yield indices of atoms of a mix for ever."""
    while True:
        yield from picked(mix.probability, rng.random(AT_ONCE)).tolist()


def _exponentials(rng: np.random.Generator) -> Iterator[float]:
    """Yield exponential numbers of mean 1 for ever."""
    while True:
        yield from rng.exponential(1.0, AT_ONCE).tolist()


def _whole_numbers(rng: np.random.Generator, most: int) -> Iterator[int]:
    """Yield whole numbers from 1 to ``most`` for ever; 0 where that is 0."""
    while True:
        yield from rng.integers(1, most + 1, AT_ONCE).tolist() if most else [0] * AT_ONCE


def _whole(key: str, value: int, least: int) -> None:
    if value != int(value) or value < least:
        raise ConfigError(key, value, f"a whole number >= {least}")
