"""The engine ``decode_node``: owns the arrays of one run and drives the compiled kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from discrete._engine import Progress, Stop
from discrete._run import Run
from discrete._sent import SendsOneAtATime
from discrete.decode_node.kernel import advance
from discrete.decode_node.layout import (
    BATCH,
    CLOCK,
    EVENT,
    FUEL,
    HISTORY,
    NOBODY,
    PAUSE,
    REQUEST,
    SAMPLE,
    SINK_FULL,
    SPAN,
    STATE,
    UNLIMITED,
    Queue,
)
from discrete.decode_node.log import DecodeNodeLog
from discrete.decode_node.random import pcg64_state
from discrete.decode_node.reports import TellsOfItself
from discrete.decode_node.settings import Policies, write_settings
from serving import ConfigError, DecodeNode, FluidServeError, RequestTable, check_fits

SINK_ROWS = (4, 64)
"""Rows of a sink at first: per request, and in any case; it grows when full."""

LINKS = ("head", "tail", "last_executing", "sacrificed", "swapped_head", "swapped_tail")


class DecodeNodeEngine(SendsOneAtATime, TellsOfItself):
    """A decode node that can be advanced, looked at, saved, and given other requests.

    Between two calls it rests right after a batch: completions gone, arrivals joined.

    Parameters
    ----------
    requests
        Everyone who will arrive.
    instance
        The node.
    seed
        Of the random victim policy.
    record_batches, record_events
        Whether to keep one row per batch (and the spans in which each request executed) and one
        per event.
    sample_times : shape (G,) [time]
        Times at which to note the state; cheap, and needs no batch rows.

    Raises
    ------
    WorkloadError
        If a request can never finish.
    ConfigError
        If a user's policy cannot be used.
    """

    def __init__(
        self,
        requests: RequestTable,
        instance: DecodeNode,
        *,
        seed: int = 42,
        record_batches: bool = True,
        record_events: bool = False,
        sample_times: ArrayLike | None = None,
    ) -> None:
        check_fits(requests, instance)
        if seed < 0:
            raise ConfigError("seed", seed, "a whole number >= 0")
        self.instance, self.seed = instance, seed
        self.record_batches, self.record_events = record_batches, record_events
        self._policies = Policies.of(instance)
        self.state = np.zeros(1, STATE)
        write_settings(
            self.state,
            instance,
            self._policies,
            record_batches=record_batches,
            record_events=record_events,
        )
        for link in LINKS:
            self.state[link] = NOBODY
        self._random = pcg64_state(seed)
        self._law = instance.batch_time.vector()
        self._set_requests(requests, np.empty(0, REQUEST), np.empty(0, HISTORY))
        self._bucket = np.full(_ring_size(requests), NOBODY)
        size = len(requests)
        per_request, more = SINK_ROWS
        rows = per_request * size + more
        self.batches = np.empty(rows if record_batches else 0, BATCH)
        self.spans = np.empty(rows if record_batches else 0, SPAN)
        self.events = np.empty(rows if record_events else 0, EVENT)
        grid = np.empty(0) if sample_times is None else np.asarray(sample_times, np.float64)
        if grid.size and (not np.isfinite(grid).all() or (np.diff(grid) < 0).any()):
            raise FluidServeError("sample_times must be finite and sorted")
        self.grid, self.samples = grid, np.zeros(grid.size, SAMPLE)
        self.finished = False

    def _set_requests(self, requests: RequestTable, req: NDArray, past: NDArray) -> None:
        """Hold ``requests``, the first of which have the states ``req`` and ``past``."""
        size, known = len(requests), req.size
        self._given, self._sent, self._bound = requests, None, False
        self._columns: list[NDArray] = [
            np.ascontiguousarray(column)
            for column in (requests.arrival_time, requests.prefill_length, requests.decode_length)
        ]
        self.req, self.past = np.zeros(size, REQUEST), np.zeros(size, HISTORY)
        self.req[:known], self.past[:known] = req, past
        self._set_keys()
        stored = size if self._policies.queue != Queue.FCFS else 0
        heap = np.empty(stored, np.int64)
        if stored and known:
            held = min(self._heap.size, stored)
            heap[:held] = self._heap[:held]
        self._heap = heap
        self._user_keys = np.empty(size if self._policies.queue == Queue.USER else 0)

    def _empty_tables(self) -> None:
        self._offered = self._columns, self.past
        self._columns = [np.zeros_like(column) for column in self._columns]
        self.past = np.zeros_like(self.past)
        self._has_keys = self._policies.queue != Queue.FCFS or self._policies.any_user

    def _put(self, number: int, row: int, time: float) -> None:
        columns, past = self._offered
        self._columns[0][number] = time
        for mine, offered in zip(self._columns[1:], columns[1:], strict=True):
            mine[number] = offered[row]
        if self._has_keys:
            self.past[number] = past[row]

    def _set_keys(self) -> None:
        """Write what the queue policy and users' policies read of a request."""
        if self._policies.queue == Queue.FCFS and not self._policies.any_user:
            return
        node, table = self.instance, self._given
        believed = node.length_source == "predicted"
        length = table.predicted_decode_length if believed else table.decode_length
        self.past["priority"], self.past["length"] = table.priority, length
        self.past["key"] = table.priority if node.queue_policy == "priority" else length

    @property
    def time(self) -> float:
        """The present [time]."""
        return float(self.state["time"][0])

    @property
    def batch(self) -> int:
        """Batches executed so far."""
        return int(self.state["batch"][0])

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        s = self.state[0]
        return Progress(self.time, self.batch, int(s["completed"]), int(s["arrived"]), self._total)

    def advance(
        self,
        *,
        until: float | None = None,
        batches: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Stop:
        """Run until everyone has finished, or a limit is met.

        Parameters
        ----------
        until : [time]
            Stop at the first batch boundary at or after it; an empty node waits until then.
        batches
            Stop after so many more batches.
        progress
            Called between chunks of some tens of milliseconds.

        Returns
        -------
        Stop
            FINISHED, UNTIL or BATCHES.

        Raises
        ------
        FluidServeError
            If without a limit nobody ever finishes: with sacrifice, FIFO's and users' victims can
            be evicted again and again before they finish, for ever.
        """
        end = math.inf if until is None else float(until)
        last = UNLIMITED if batches is None else self.batch + batches
        before = None
        while True:
            if not self._bound:
                self.bind()
            left = UNLIMITED if batches is None else last - self.batch
            stop = advance(self.state, end, left, FUEL)
            if stop == SINK_FULL:
                self._grow_sinks()
            elif stop != PAUSE:
                self.finished = stop == Stop.FINISHED
                return Stop(stop)
            now = self.progress
            if before is None or now.completed > before.completed:
                before = now
            elif batches is None and (until is None or now.time == before.time):
                self._refuse_stall(before, now)
            if progress is not None:
                progress(now)

    def bind(self) -> None:
        """Tell the kernel where the tables lie; whoever replaces one calls for it again."""
        tables = {
            "requests": self.req,
            "history": self.past,
            "arrivals": self._columns[0],
            "prefills": self._columns[1],
            "decodes": self._columns[2],
            "waiting": self._heap,
            "keys": self._user_keys,
            "ring": self._bucket,
            "random": self._random,
            "batches": self.batches,
            "spans": self.spans,
            "events": self.events,
            "grid": self.grid,
            "samples": self.samples,
            "law": self._law,
        }
        for name, table in tables.items():
            self.state[f"{name}_at"] = table.ctypes.data
        for name in ("batches", "spans", "events", "grid"):
            self.state[f"{name}_size"] = tables[name].size
        self.state["total"], self.state["ring_mask"] = self._total, self._bucket.size - 1
        self._bound = True

    def _refuse_stall(self, before: Progress, now: Progress) -> None:
        """Stop a run in which requests evict each other for ever."""
        patience = 100_000 + 1000 * int(self._given.decode_length.max())
        if now.batch - before.batch > patience:
            raise FluidServeError(
                f"the run stalls at time {now.time!r}: no request finished in the last"
                f" {now.batch - before.batch} batches; with mode sacrifice, victim_policy"
                f" {self.instance.victim_policy} can evict every request before it finishes;"
                " LIFO and LRU cannot, and until= limits a run that does"
            )

    def _grow_sinks(self) -> None:
        """Double every sink in use, at least to what one boundary can add."""
        s = self.state[0]
        waiting = s["arrived"] - s["completed"] - s["running"]
        least = 2 * int(s["running"] + min(waiting, self.instance.M_total // 2 + 1)) + 64
        for name, used in (("batches", 1), ("spans", least), ("events", least)):
            sink = getattr(self, name)
            if sink.size and sink.size - s[name] < used:
                larger = np.empty(2 * sink.size + least, sink.dtype)
                larger[: s[name]] = sink[: s[name]]
                setattr(self, name, larger)
        self._bound = False

    def inject(
        self, requests: RequestTable, *, at: float | None = None, replace: bool = True
    ) -> None:
        """Send other requests from a given time on.

        Parameters
        ----------
        requests
            Their arrival times count from ``at``.
        at : [time]
            Not before the present, which is the default.
        replace
            Whether they take the place of those who would have arrived from ``at`` on, or come
            besides them.

        Raises
        ------
        WorkloadError
            If a request can never finish.
        ConfigError
            If ``at`` lies in the past.
        """
        start = self.time if at is None else float(at)
        if not start >= self.time:
            raise ConfigError("at", at, f"a time not before the present, {self.time!r}")
        check_fits(requests, self.instance)
        arrived = int(self.state["arrived"][0])
        table = self.requests.continued(requests, arrived, start, replace=replace)
        self._rebuild_ring(table)
        self._set_requests(table, self.req[:arrived], self.past[:arrived])
        # an engine that had finished has filled the rest of the sampling grid
        sampled = np.searchsorted(self.grid, self.time)
        self.state["samples"] = min(self.state["samples"][0], sampled)
        self.finished = False

    def _rebuild_ring(self, table: RequestTable) -> None:
        """Make the ring of finishing batches long enough for the lengths of ``table``."""
        size = max(_ring_size(table), self._bucket.size)
        ring = np.full(size, NOBODY)
        first = self._bucket[self._bucket != NOBODY]
        finish = self.req["progress"][first] + self.req["decode"][first]
        ring[finish & (size - 1)] = first
        self._bucket = ring

    def arrays(self) -> dict[str, NDArray]:
        """Return everything that changes, by name; with the requests it is the whole state."""
        s = self.state[0]
        return {
            "clock": np.array([tuple(s[name] for name in CLOCK.names or ())], CLOCK),
            "req": self.req[: self._total],
            "past": self.past[: self._total],
            "waiting": self._heap[: self._total],
            "ring": self._bucket,
            "random": self._random,
            "batches": self.batches[: s["batches"]],
            "spans": self.spans[: s["spans"]],
            "events": self.events[: s["events"]],
            "grid": self.grid,
            "samples": self.samples,
        }

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over what :meth:`arrays` returned for the same requests and instance."""
        for name in CLOCK.names or ():
            self.state[name] = arrays["clock"][name]
        self.req, self.past = arrays["req"], arrays["past"]
        self._heap, self._bucket = arrays["waiting"], arrays["ring"]
        self._random, self.samples = arrays["random"], arrays["samples"]
        self._bound = False
        for name in ("batches", "spans", "events"):
            if getattr(self, name).size:
                spare = np.empty(arrays[name].size + SINK_ROWS[1], arrays[name].dtype)
                setattr(self, name, np.concatenate([arrays[name], spare]))

    def _requests_so_far(self) -> NDArray:
        """Return a copy of the hot records, with those who have not arrived filled in."""
        total = self._total
        req, new = self.req[:total].copy(), slice(int(self.state["arrived"][0]), total)
        req["prefill"][new], req["decode"][new] = (column[new] for column in self._columns[1:])
        for moment in ("first_enter", "first_token", "completion"):
            req[moment][new] = np.nan
        return req

    def run(self) -> Run:
        """Return what has happened so far; it does not change when the engine goes on."""
        s, is_over = self.state[0], self.finished and self._sent is None
        log = DecodeNodeLog(
            self.requests,
            self.instance,
            self.state.copy()[0],
            self.req if is_over else self._requests_so_far(),
            self.past if is_over else self.past[: self._total].copy(),
            self.batches[: s["batches"]],
            self.spans[: s["spans"]],
            self.events[: s["events"]],
            self.grid[: s["samples"]],
            self.samples[: s["samples"]].copy(),
            self.finished,
        )
        return Run(
            log,
            seed=self.seed,
            record_batches=self.record_batches,
            record_events=self.record_events,
        )


def _ring_size(requests: RequestTable) -> int:
    return 1 << int(requests.decode_length.max()).bit_length()
