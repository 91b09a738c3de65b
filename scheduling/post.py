"""The post of a fleet: reports of batches on their way to those who listen, faults included."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.listening import Listener
from scheduling.messages import BatchTrace, RequestMeta
from serving import ConfigError


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to batch traces on their way.

    Parameters
    ----------
    lost, doubled, reordered
        Shares of the traces that never arrive, that arrive twice, and that arrive after the next
        one of their instance.
    seed
        Of the draws: the same seed does the same to the same traces.
    """

    lost: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lost", "doubled", "reordered"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a share from 0 to 1")
        if self.share > 1:
            raise ConfigError("lost + doubled + reordered", self.share, "together at most 1")

    @property
    def share(self) -> float:
        """Share of the traces to which something happens."""
        return self.lost + self.doubled + self.reordered


class Post:
    """Carries batch traces of a fleet to its listeners.

    Parameters
    ----------
    engines : shape (N,)
        The engines of the instances (:class:`discrete.Reporting`), which record events.
    listeners
        Who hears.
    faults
        What happens on the way.
    """

    def __init__(
        self, engines: Sequence[Any], listeners: Sequence[Listener], faults: Faults | None
    ) -> None:
        self._writers = [_Writer(engine) for engine in engines]
        self._listeners = listeners
        self._faults = faults or Faults()
        self._rng = np.random.default_rng(self._faults.seed)
        self._told = np.zeros(len(engines), np.int64)
        self._held: dict[int, BatchTrace] = {}

    def deliver(self, batches: NDArray[np.int64]) -> None:
        """Hand over every batch up to these numbers, in the order in which they ended.

        Parameters
        ----------
        batches : shape (N,)
            Batches of each instance that have been told by now.
        """
        new = (batches > self._told).nonzero()[0].tolist()
        if not new:
            return
        traces = [
            (trace.end, i, trace)
            for i in new
            for trace in self._writers[i].traces(int(self._told[i]), int(batches[i]))
        ]
        self._told[new] = batches[new]
        traces.sort(key=lambda each: each[:2])
        for _, i, trace in traces:
            self._carry(i, trace)

    def flush(self) -> None:
        """Hand over what is still held back."""
        for i, trace in self._held.items():
            self._hand(i, trace)
        self._held.clear()

    def sent(self, instance: int, request: RequestMeta, time: float) -> None:
        """Say that a request was sent."""
        for listener in self._listeners:
            listener.enqueue_request(instance, request, time)

    def _carry(self, i: int, trace: BatchTrace) -> None:
        faults = self._faults
        draw = self._rng.random() if faults.share else 1.0
        before = self._held.pop(i, None)
        if draw < faults.lost:
            pass
        elif draw < faults.lost + faults.reordered:
            self._held[i] = trace
        else:
            self._hand(i, trace)
            if draw < faults.lost + faults.reordered + faults.doubled:
                self._hand(i, trace)
        if before is not None:
            self._hand(i, before)

    def _hand(self, i: int, trace: BatchTrace) -> None:
        for listener in self._listeners:
            listener.sync_batch_result(i, trace)


class _Writer:
    """Writes the batch traces of one instance, batch after batch."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._oldest = 0
        self._started, self._finished = np.zeros(64, np.int64), np.zeros(64, np.int64)
        self._victims: list[int] = []
        self._events = self._evicted = 0
        self._away: dict[int, int] = {}
        self._marks: tuple[list[int], list[int]] = ([0], [0])

    def traces(self, first: int, last: int) -> list[BatchTrace]:
        """Return the traces of batches ``first`` to ``last`` - 1."""
        engine = self._engine
        ids = engine.sent_rows
        if self._started.size < ids.size:
            self._started = np.zeros(2 * ids.size, np.int64)
            self._finished = np.zeros(2 * ids.size, np.int64)
        found = []
        for k, row in enumerate(engine.batch_rows(first, last).tolist(), first):
            end, duration, prefill, decoded, waiting, running, memory, evicted = row
            starts, ends, self._oldest = engine.members(
                engine.state, k, self._oldest, self._started, self._finished
            )
            back, gone = self._exchanged(k, evicted)
            if engine.counts_newcomers:
                decoded -= starts
            if not engine.counts_returned:
                decoded += len(back)
            found.append(
                BatchTrace(
                    k,
                    end,
                    duration,
                    prefill,
                    decoded,
                    finished=tuple(ids[self._finished[:ends]].tolist()),
                    started=tuple(ids[self._started[:starts]].tolist()),
                    preempted=tuple(ids[gone].tolist()) if gone else (),
                    resumed=tuple(ids[back].tolist()) if back else (),
                    num_waiting=waiting,
                    num_running=running,
                    kv_used=float(memory),
                )
            )
        for list_, now in zip(self._marks, (engine.batch, engine.num_spans), strict=True):
            list_.append(now)
        return found

    def _exchanged(self, batch: int, evicted: int) -> tuple[list[int], list[int]]:
        """Return who of the evicted decodes again with a batch, and who was evicted before it."""
        if evicted == self._evicted and not self._away:
            return [], []
        if evicted > len(self._victims):
            more, self._events = self._engine.victims(self._events)
            self._victims += more.tolist()
        gone = self._victims[self._evicted : evicted]
        self._evicted = evicted
        self._away.update(dict.fromkeys(gone, batch))
        back = []
        for number, since in list(self._away.items()):
            batches, spans = self._marks
            mark = spans[bisect_right(batches, since) - 1]
            first = self._engine.token_since(self._engine.state, number, since, mark)
            if first == batch:
                back.append(number)
                del self._away[number]
        return back, gone
