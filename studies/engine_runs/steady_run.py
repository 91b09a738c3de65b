"""A long run in a steady state: how long it has to be, and which of its requests count.

A run starts empty, and two things take long to get over that. A queue does, near capacity: it
remembers some ``4 / (1 - load)**2`` requests, more where arrivals scatter. And where requests slow
each other, a batch that is too short lets too few gather, so that the next one is too short as
well: of a disturbance the part ``1 - empty batch / batch`` comes back after the age of those who
run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import discrete
from serving import FluidServeError, LatencySamples, RequestMix, UnsupportedError, reading_of
from studies.engine_runs.noise import Counted
from studies.question import Question
from workload import replication_seed

PIECES = 8
"""Pieces of a run, whose differences tell the noise."""

MOST_REQUESTS = 4_000_000
"""Requests of a run at most. What would take longer to settle has no run."""

QUEUE = 4.0
"""Requests that a queue of Poisson arrivals remembers, times the square of 1 - load."""

FORGOTTEN, APART = 3.0, 6.0
"""Memories after which the start is forgotten, and those of a piece."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is.

    Parameters
    ----------
    warm : [requests]
        Come first, and do not count.
    piece : [requests]
        Of each of :data:`PIECES`, which count.
    after : [requests]
        Come last, and do not count: they are as many as come while the longest request stays, and
        keep it as busy as it is.
    memory : [requests]
        For which a batch that is too short or too long makes others so.
    """

    warm: int
    piece: int
    after: int
    memory: float

    @property
    def counted(self) -> slice:
        """Rows of the table that count."""
        return slice(self.warm, self.warm + PIECES * self.piece)

    @property
    def total(self) -> int:
        """Requests of the run."""
        return self.counted.stop + self.after

    @property
    def doubt(self) -> float:
        """Standard error of the mean over that which pieces show as if they were independent.

        Pieces that follow each other are alike, and so differ less than runs would. Of a process
        whose correlation falls by e in a memory the ratio is known.
        """
        apart = self.piece / max(self.memory, 1e-9)
        of_piece, of_all = (_variance(n * apart) for n in (1, PIECES))
        return math.sqrt(of_all * (PIECES - 1) / (of_piece - of_all))


def _variance(length: float) -> float:
    """Return the variance of a mean over so many memories, relative to that of a value."""
    return 2.0 / length * (1.0 + math.expm1(-length) / length)


def length_of(question: Question, shortest: int) -> Length:
    """Return how long a run has to be.

    Parameters
    ----------
    question
        A constant rate below capacity.
    shortest : [requests]
        Of a piece at least.

    Raises
    ------
    UnsupportedError
        If there is no steady state, or a run would be too long.
    """
    load = question.load
    if not load < 1:
        raise UnsupportedError(f"at a load of {load:.3g} there is no steady state")
    queue = QUEUE * max(question.dispersion, 1.0) / (1.0 - load) ** 2
    longest, slow = _memories(question.mix, question.instance, question.known_rate, load)
    memory = queue + slow
    warm, piece = longest + FORGOTTEN * memory, max(shortest, longest + APART * memory)
    if (total := warm + PIECES * piece + longest) > MOST_REQUESTS:
        raise UnsupportedError(
            f"at a load of {load:.3g} a run of the engine takes some {total:,.0f} requests to "
            f"settle and to tell its noise, more than {MOST_REQUESTS:,}"
        )
    return Length(math.ceil(warm), math.ceil(piece), math.ceil(longest), slow)


def _memories(mix: RequestMix, instance: Any, rate: float, load: float) -> tuple[float, float]:
    """Return requests that come while the longest stays, and for which batches remember."""
    from ode.error_model.features import healthy_step

    step = healthy_step(mix, instance, rate)
    empty = float(reading_of(instance).node.batch_time.duration(0.0, 0.0))
    p, d, weight = (np.asarray(x, float) for x in (mix.prefill, mix.decode, mix.probability))
    # steps since its first of those who run, each counted by its tokens, on average
    age = float(weight @ (p * d**2 / 2 + d**3 / 3)) / float(weight @ (p * d + d**2 / 2))
    # a full instance does not get slower: what keeps it from being full is the load
    slower = min(step / empty if empty > 0 else math.inf, 1.0 / (1.0 - load))
    return rate * step * mix.longest_decode, rate * step * age * slower


def run_of(
    question: Question,
    number: int,
    length: Length,
    progress: Callable[[discrete.Progress], None] | None = None,
) -> LatencySamples:
    """Return the latencies of the requests of a run that count.

    Parameters
    ----------
    question
        See :func:`length_of`.
    number
        Of the replication, which says its seed.
    length
        Of the run.
    progress
        See :func:`discrete.simulate`.

    Raises
    ------
    FluidServeError
        If the engine does not get to an end.
    """
    seed = replication_seed(question.seed, number)
    run = discrete.simulate(
        question.stream.sample(seed, num_requests=length.total), question.instance,
        seed=question.seed + number, record_batches=False, progress=progress,
    )  # fmt: skip
    if not run.finished:
        raise FluidServeError("the engine came to a stop before every request had an answer")
    every = run.samples(length.warm)
    count = int(discrete.completed(run.requests)[length.counted].sum())
    names = ("queue_delay", "ttft", "tpot", "e2el", "weight")
    return LatencySamples(*(getattr(every, name)[:count] for name in names))


def pieces_of(found: LatencySamples, rate: float) -> list[Counted]:
    """Return the pieces of a run, the earliest first.

    Parameters
    ----------
    found
        Latencies of the run.
    rate : [requests/time]
        Of arrivals.
    """
    ends = np.arange(PIECES + 1) * found.ttft.size // PIECES
    parts = [slice(a, b) for a, b in pairwise(ends)]
    return [
        Counted(found.ttft[of], found.e2el[of], rate * float(found.e2el[of].mean())) for of in parts
    ]
