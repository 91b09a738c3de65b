"""Two states of a server whose clients wait for answers: a cache that finds, and one that does not.

Where a turn is sent only after the answer before, waiting is a load on the cache: a conversation
that waits is there for longer, more conversations are there at a time, and their prefixes lie
deeper. So a backlog makes the cache find less, prompts cost more, and the backlog stays. Whether it
does is read off the capacity of the server as a function of the wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import FluidServeError, RequestTable, SolveError, VllmV1
from studies.prefix_cache.pace import Pace, pace
from studies.prefix_cache.prediction import (
    ROUGH,
    check_contents,
    distinct_share,
    refuse,
)
from workload import Stays, hit_curve, prefixes_of

PRECISION, ROUNDS = 3e-4, 120
"""Hit share up to which rates and stays have to agree, and rounds after which they are given up:
where a state is about to vanish they come to agree slowly."""

AT_ONCE = 20
"""Rounds after which the hit share goes only half of the way, lest it swing to and fro."""

WARM = 0.4
"""Share of the beginnings after which conversations are as many as they will ever be."""

SPREAD = 1.3
"""Ratio of the rates by which an interval is looked for that holds a limit."""

HALVINGS = 11
"""Halvings of an interval of waits or of rates: to a thousandth."""


@dataclass(frozen=True, slots=True)
class WaitState:
    """A server in which everybody waits for so long; one that is full, unless nobody waits.

    Parameters
    ----------
    wait : [time]
        From the sending of a turn to its admission.
    hit_share
        Share of the prompt tokens that the cache finds.
    load
        Arrival rate over what the server can do when its cache finds so much: below 1 the wait
        becomes shorter, above 1 longer.
    """

    wait: float
    hit_share: float
    load: float


class WaitingTurns:
    """Conversations that begin at a rate, and whose turns wait for answers, on a server.

    A backlog fills the server with running requests and makes every turn wait. Both take from what
    the cache keeps until the next turn: :meth:`at` says what it finds then, and how near to its
    capacity the server is. Where the load is below 1 without a wait and above 1 with a long one,
    the server has two states.

    Parameters
    ----------
    requests
        With contents and sessions; the sessions begin throughout.
    node
        The server.

    Raises
    ------
    FluidServeError
        If no turn waits, or all sessions begin at once: then the number of clients is given, and
        nothing pushes back.
    """

    def __init__(self, requests: RequestTable, node: VllmV1) -> None:
        check_contents(requests)
        refuse(node)
        self.requests, self.node = requests, node
        self.prefixes = prefixes_of(requests, node.block_size, stop_token=not node.ignore_eos)
        self.mix = requests.mix()
        self._next = requests.next_turns()
        later = np.zeros(len(requests), bool)
        later[self._next[self._next >= 0]] = True
        if not later.any():
            raise FluidServeError("no turn waits for an answer: one state is all there is")
        self._starts = np.flatnonzero(~later)
        began = requests.arrival_time[self._starts]
        self.lasts = float(began[-1] - began[0])
        if not self.lasts > 0 or len(requests) / self._starts.size > self._starts.size:
            raise FluidServeError(
                "all sessions begin at once, so that the number of clients is given; the two "
                "states are those of conversations that begin at a rate"
            )
        self.rate = len(requests) / self.lasts

    def longest_wait(self, rate: float | None = None) -> float:
        """Return the wait [time] up to which these requests are enough to see a steady state.

        Parameters
        ----------
        rate : [requests/time]
            At which turns are sent; that of the requests where not given.
        """
        number, first = len(self.requests), self._starts.size
        lasts = self.lasts if rate is None else number / rate
        think = float(self.requests.think_time.sum()) / (number - first)
        return max(WARM * lasts * first / number - 2 * think, 0.0)

    def at(self, wait: float, rate: float | None = None) -> WaitState:
        """Return the state in which everybody waits for ``wait`` [time].

        Parameters
        ----------
        wait : [time]
        rate : [requests/time]
            At which turns are sent; that of the requests where not given.

        Raises
        ------
        FluidServeError
            If the requests are too few for so long a wait.
        SolveError
            If hit share and stays do not come to agree.
        """
        rate = self.rate if rate is None else rate
        longest = self.longest_wait(rate)
        if longest == 0:
            raise FluidServeError(
                f"{len(self.requests)} requests at a rate of {rate:.4g} are too few to see "
                "conversations begin and end alike; give more"
            )
        if wait > longest * (1 + 1e-9):
            raise FluidServeError(
                f"a wait of {wait:g} at a rate of {rate:g} needs more requests; allowed: up to "
                f"{longest:g}"
            )
        usable = self.node.num_gpu_blocks - 1
        share, distinct = 1.0, 1.0  # from above: to the state that finds most
        for k in range(ROUNDS):
            now = pace(self.node, self.mix, rate, share, distinct, is_full=wait > 0)
            stays = self._stays(wait, self.rate / rate, now, share)
            curve = hit_curve(self.requests, self.prefixes, stays, self._steady(stays, rate))
            found = float(curve.hit_share(usable))
            if abs(found - share) < (PRECISION if k < ROUNDS // 2 else ROUGH):
                return WaitState(wait, found, now.load)
            share += (1.0 if k < AT_ONCE else 0.5) * (found - share)
            shared = distinct_share(self.requests, self.prefixes, stays, curve)
            distinct += 0.5 * (shared - distinct)
        raise SolveError(
            "waiting_turns", "no_agreement",
            f"with a wait of {wait:g} hit share and stays do not come to agree",
        )  # fmt: skip

    def critical_wait(self) -> float:
        """Return the wait [time] beyond which a backlog grows by itself.

        0 where the server cannot do it at all, infinite where every backlog goes away.
        """
        return self._crossing(lambda wait: self.at(wait).load, 0.0, self.longest_wait())

    def band(self) -> tuple[float, float]:
        """Return the rates [requests/time] between which both states last.

        Below the first every backlog goes away; from the second on there is no state without one.
        """
        low, high = self._limit(0.5), self._limit(0.0)
        return min(low, high), high

    def _limit(self, part: float) -> float:
        """Return the rate up to which a server keeps up that has waits of the longest's part."""

        def load(rate: float) -> float:
            try:
                return self.at(part * self.longest_wait(rate), rate).load
            except SolveError:  # it is about to vanish
                return math.inf

        slow, fast = self.rate, self.rate
        while load(slow) > 1:
            slow /= SPREAD
        while load(fast) < 1:
            fast *= SPREAD
        return self._crossing(load, slow, fast)

    @staticmethod
    def _crossing(load, low: float, high: float) -> float:
        """Return where a load that grows becomes 1: 0 if it is above at once, infinite if never."""
        if load(low) >= 1:
            return low
        if load(high) < 1:
            return math.inf
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if load(middle) >= 1 else (middle, high)
        return (low + high) / 2

    def _stays(self, wait: float, stretch: float, now: Pace, hit_share: float) -> Stays:
        """Return when requests are in memory, turn by turn."""
        table = self.requests
        prompt = table.prefill_length * (1 - hit_share) * now.prompt
        stay = prompt + table.decode_length * now.step
        admitted = np.empty(len(table))
        rows = self._starts
        admitted[rows] = table.arrival_time[rows] * stretch + wait
        while rows.size:
            before = rows[self._next[rows] >= 0]
            rows = self._next[before]
            admitted[rows] = admitted[before] + stay[before] + table.think_time[rows] + wait
        return Stays(admitted, admitted + stay)

    def _steady(self, stays: Stays, rate: float) -> NDArray[np.bool_]:
        """Return which requests are admitted while conversations begin and end alike."""
        lasts = self.lasts * self.rate / rate
        first = float(self.requests.arrival_time[self._starts[0]]) * self.rate / rate
        when = stays.admitted - first
        return (when > WARM * lasts) & (when < lasts)
