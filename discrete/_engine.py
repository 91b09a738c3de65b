"""What every engine offers, whatever node it simulates: how it is driven, saved and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from discrete._run import Run
from serving import Instance, RequestTable, UnsupportedError, kind_of


class Stop(IntEnum):
    """Why an engine stopped advancing."""

    FINISHED = 0
    UNTIL = 1
    BATCHES = 2
    STUCK = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: its clock [time], batches, and requests completed, arrived and in all."""

    time: float
    batch: int
    completed: int
    arrived: int
    total: int


class Engine(Protocol):
    """A node that can be advanced, looked at, saved, and given other requests.

    An engine's class takes ``(requests, instance, seed=, record_batches=, record_events=,
    sample_times=)``. Between two calls an engine rests right after a batch: completions are gone
    and arrivals have joined. The arrays of an engine at rest are its whole state: two engines with
    equal arrays go on alike, bit for bit.
    """

    requests: RequestTable
    seed: int
    record_batches: bool
    record_events: bool
    finished: bool

    @property
    def instance(self) -> Instance:
        """The instance that the engine simulates."""
        ...

    @property
    def time(self) -> float:
        """The present [time]."""
        ...

    @property
    def batch(self) -> int:
        """Batches executed so far."""
        ...

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        ...

    def advance(
        self,
        *,
        until: float | None = None,
        batches: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Stop:
        """Run until every request has finished, or to a time, or for a number of batches."""
        ...

    def inject(
        self, requests: RequestTable, *, at: float | None = None, replace: bool = True
    ) -> None:
        """Send other requests from a time on, in place of those to come or besides them."""
        ...

    def hold_back(self) -> None:
        """Let nobody arrive but whom :meth:`send` sends; called before anybody has arrived.

        Afterwards :attr:`requests` are those who were sent, in that order, so that a run of these
        on an engine of their own is the same run.

        Raises
        ------
        UnsupportedError
            If somebody has arrived, clients give up or wait for answers, or times are sampled.
        """
        ...

    def send(self, row: int, time: float) -> int:
        """Let one request arrive, in constant time.

        Parameters
        ----------
        row
            Of the table that the engine was given; each can be sent once.
        time : [time]
            When it arrives: after the last batch boundary but the one at which the engine rests,
            where it joins then, and not before whoever was sent last. An engine that was advanced
            until some time can be sent all who come at that time or later.

        Returns
        -------
        int
            Its number among those who were sent.
        """
        ...

    @property
    def sent_rows(self) -> NDArray[np.int64]:
        """Rows of those who were sent so far, in that order, shape (S,)."""
        ...

    def arrays(self) -> dict[str, NDArray]:
        """Return everything that changes, by name; with the requests it is the whole state."""
        ...

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over what :meth:`arrays` returned for the same requests and instance."""
        ...

    def run(self) -> Run:
        """Return what has happened so far; the result does not change when the engine goes on."""
        ...


class Reporting(Protocol):
    """What an engine offers besides, so that a fleet can look at many at the price of one call.

    Compiled functions find what they need by the addresses in the engine's state, so the states of
    a fleet can stand in one array.
    """

    state: NDArray
    """State of the engine, shape (1,), a record."""

    refresh: ClassVar[Callable[..., int]]
    """Compiled function of ``(states, reports, where, first, now, delay, period)``.

    It advances the engines of ``states`` from number ``first`` on to the time ``now`` and writes
    what each tells there into its :data:`REPORT`, ``reports[where[i]]``. What is told is ``delay``
    old, and it is the state when a batch last began or ended (``period`` < 0), at the last multiple
    of ``period``, or at that very time (``period`` 0). It returns the number of an engine that has
    to be advanced in Python first, or else how many there are.
    """

    counts_newcomers: ClassVar[bool]
    """Whether those that decode in a batch, as reported, have those in it that get their first
    token."""

    counts_returned: bool
    """Whether those that decode in a batch, as reported, have those in it that were evicted and get
    a token again. A server that computes their prompts again counts them among prompts."""

    members: ClassVar[Callable[..., tuple[int, int, int]]]
    """Compiled function of ``(state, batch, oldest, started, finished)``: it lists the numbers of
    those whose first and whose last token came with a batch, and returns how many these are, and
    before which number nobody is left. Asked batch after batch, it begins with ``oldest`` 0."""

    token_since: ClassVar[Callable[..., int]]
    """Compiled function of ``(state, number, batch, span)``: the first batch from ``batch`` on that
    gave the request of a number a token, -1 where none has yet. Spans before ``span`` are too old
    to look at: as many as were written when the engine was not beyond ``batch``."""

    @property
    def num_spans(self) -> int:
        """Spans written so far."""
        ...

    def victims(self, event: int) -> tuple[NDArray[np.int64], int]:
        """Return the numbers of those who were evicted according to the events from one on.

        In order, and with the number of events so far. Needs ``record_events``.
        """
        ...

    def batch_rows(self, first: int, last: int) -> NDArray:
        """Return :data:`BATCH_REPORT` of the batches from one on up to, but without, another."""
        ...

    def bind(self) -> None:
        """Write the addresses into the state, which may be another array than before."""
        ...


def engine_for(
    requests: RequestTable,
    instance: Instance,
    *,
    seed: int = 42,
    record_batches: bool = True,
    record_events: bool = False,
    sample_times: ArrayLike | None = None,
    **own: Any,
) -> Engine:
    """Return the engine of an instance's kind, at its start.

    Parameters
    ----------
    requests
        Who arrives when, with which lengths.
    instance
        What serves them.
    seed
        Of what is random in the engine, such as a random victim policy.
    record_batches
        Keep one row per batch: needed for a full trajectory and inter-token latencies.
    record_events
        Keep one row per event, for the event files.
    sample_times : shape (G,) [time]
        Times at which to note the state, at next to no cost.
    **own
        What only this kind of engine takes, see :attr:`serving.Kind.run_options`; None and False
        are as good as absent.

    Raises
    ------
    UnsupportedError
        If ``instance`` is of no kind that is registered, or its engine does not take an option.
    WorkloadError
        If a request can never finish.
    ConfigError
        If a user's policy cannot be used.
    """
    kind = kind_of(instance)
    own = {name: value for name, value in own.items() if value is not None and value is not False}
    for name in own:
        if name not in kind.run_options:
            raise UnsupportedError(f"the engine {kind.name} has no {name.replace('_', '-')}")
    engine: Any = kind.engine_class()
    return engine(
        requests,
        instance,
        seed=seed,
        record_batches=record_batches,
        record_events=record_events,
        sample_times=sample_times,
        **own,
    )
