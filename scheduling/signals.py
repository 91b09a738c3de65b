"""What a router sees of its instances, how old it is, and what it knows by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from discrete import blank_reports
from serving import ConfigError

if TYPE_CHECKING:
    from scheduling.listening import Predicts


@dataclass(frozen=True, slots=True)
class Signals:
    """When instances tell of themselves, and how long that takes.

    Parameters
    ----------
    period : [time]
        None: with every batch that begins or ends. 0: always. Else at every multiple of it;
        infinite: never.
    delay : [time]
        Until what is told arrives.
    """

    period: float | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.period is not None and not self.period >= 0:
            raise ConfigError("period", self.period, "a time >= 0, or none")
        if not 0 <= self.delay < math.inf:
            raise ConfigError("delay", self.delay, "a finite time >= 0")


@dataclass(slots=True)
class Tally:
    """How many predictions were asked for, how many of them failed, and what the first one said."""

    asked: int = 0
    failed: int = 0
    first: str = ""

    def note(self, answers: NDArray[np.float64], error: Exception | None = None) -> None:
        """Count answers; those that are not finite have failed, with or without an error."""
        failed = int(np.count_nonzero(~np.isfinite(answers)))
        if failed and not self.first:
            self.first = "no finite answer" if error is None else f"{type(error).__name__}: {error}"
        self.asked += answers.size
        self.failed += failed


@dataclass(slots=True, eq=False)
class View:
    """What a policy may look at when a request comes; arrays have an entry per instance.

    Policies only read it. What instances told is as old as :class:`Signals` has it; what the router
    did itself it knows at once.

    Parameters
    ----------
    time : [time]
        The present.
    reports : shape (N,)
        What each told last (:data:`discrete.REPORT`); the properties below read it.
    capacity : shape (N,)
        Requests per time that each can serve, or any other weight.
    kv_total : shape (N,) [tokens]
        KV memory.
    sent, sent_prompts : shape (N,)
        Requests that the router has sent to each so far, and their prompt tokens.
    last_sent : shape (N,)
        Number of the request that each got last, -1 for none; see :func:`lowest`.
    prefix
        First content of the prompt of the request that is to be sent; 0 where nobody knows it.
    predictor
        Whom policies ask that want predictions; None where there is none.
    among
        Only these instances may be chosen; all where None.
    """

    time: float
    reports: NDArray
    capacity: NDArray[np.float64]
    kv_total: NDArray[np.float64]
    sent: NDArray[np.int64]
    sent_prompts: NDArray[np.int64]
    last_sent: NDArray[np.int64]
    prefix: int = 0
    predictor: Predicts | None = None
    predictions: Tally = field(default_factory=Tally)
    among: Sequence[int] | None = None
    num_waiting: NDArray[np.int64] = field(init=False)
    num_running: NDArray[np.int64] = field(init=False)
    kv_used: NDArray[np.int64] = field(init=False)
    waiting_prompts: NDArray[np.int64] = field(init=False)
    pending_prompts: NDArray[np.int64] = field(init=False)
    num_swapped: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        told = self.reports
        self.num_waiting, self.num_running = told["waiting"], told["running"]
        self.num_swapped, self.kv_used = told["swapped"], told["memory"]
        self.waiting_prompts = told["waiting_prompts"]
        self.pending_prompts = told["pending_prompts"]

    @classmethod
    def of(cls, capacity: Sequence[float], kv_total: Sequence[float]) -> View:
        """Return what is seen before anything has happened."""
        size = len(capacity)
        return cls(
            0.0,
            blank_reports(size),
            np.asarray(capacity, float),
            np.asarray(kv_total, float),
            np.zeros(size, np.int64),
            np.zeros(size, np.int64),
            np.full(size, -1),
        )

    @property
    def size(self) -> int:
        """Instances."""
        return self.sent.size

    @property
    def told_at(self) -> NDArray[np.float64]:
        """The time at which what each told was so [time]."""
        return self.reports["time"]

    @property
    def in_system(self) -> NDArray[np.int64]:
        """Requests that wait, run or are swapped out, as told."""
        return self.reports["arrived"] - self.reports["left"]

    @property
    def own(self) -> NDArray[np.int64]:
        """Requests that the router has sent and that are not in what was told yet."""
        return self.sent - self.reports["arrived"]

    @property
    def own_prompts(self) -> NDArray[np.int64]:
        """Prompt tokens of those."""
        return self.sent_prompts - self.reports["arrived_prompts"]

    @property
    def batch_residual(self) -> NDArray[np.float64]:
        """What is left of the batch that each was told to execute [time]; 0 where none is."""
        left = self.reports["batch_start"] + self.reports["batch_duration"] - self.time
        return np.fmax(left, 0.0)


def lowest(view: View, score: NDArray) -> int:
    """Return the instance of the lowest score, the one rule for ties of all policies.

    Of equals the one that has not got a request for longest is taken, and at the start the first.
    Not-a-number is worst. Only those of ``view.among`` count.

    Parameters
    ----------
    view
        Of the router.
    score : shape (N,)
        A number for each instance.
    """
    last = view.last_sent
    if view.among is not None:
        return min(
            view.among, key=lambda i: (score[i] if score[i] == score[i] else math.inf, last[i], i)
        )
    equal = (score == np.fmin.reduce(score)).nonzero()[0]
    if equal.size == 1:
        return int(equal[0])
    if equal.size == 0:  # nobody has a score
        return int(last.argmin())
    return int(equal[last[equal].argmin()])
