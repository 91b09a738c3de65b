"""What drives a compiled vLLM kernel: its sinks, its logs, and the calls that every engine offers.

A subclass says how its state, its requests and its own tables are laid out and which kernel
advances them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from discrete._engine import Progress, Stop
from discrete._run import Run
from discrete._sent import SendsOneAtATime
from discrete.vllm.decision_log import DecisionLog
from discrete.vllm.layout import (
    DECISION,
    EVENT,
    FUEL,
    NOBODY,
    PAUSE,
    ROWS_FULL,
    SAMPLE,
    SPAN,
    STEP,
    UNLIMITED,
)
from discrete.vllm.log import VllmLog
from discrete.vllm.reports import TellsOfItself
from discrete.vllm.request_log import write_request_log
from serving import ConfigError, FluidServeError, RequestTable, UnsupportedError, check_fits

AT_FIRST = 4096
"""Entries of a sink at first; it grows when full."""

SINKS = {
    "rows": STEP,
    "decisions": DECISION,
    "words": np.dtype(np.int64),
    "outcomes": np.dtype(np.int64),
    "spans": SPAN,
    "events": EVENT,
}
"""What a kernel appends to, by name: each has an address, a size and a count in the state."""


class VllmEngine(SendsOneAtATime, TellsOfItself, ABC):
    """A vLLM engine that can be advanced, looked at, saved, and given other requests.

    Parameters
    ----------
    requests
        Everyone who will arrive.
    instance
        Settings of the engine.
    seed
        Kept with the state; nothing in the engine is random.
    record_batches, record_events
        Whether to keep one row per schedule() call (and the spans in which requests got tokens) and
        one per event.
    sample_times : shape (G,) [time]
        Times at which to note the state.
    decision_log, request_log
        Files to write every decision and every request's times to.
    log_extended
        Whether these files have the columns of the V1 extensions too.

    Raises
    ------
    WorkloadError
        If a request can never finish.
    ConfigError
        If a seed is below 0.
    """

    state_record: ClassVar[np.dtype]
    clock_record: ClassVar[np.dtype]
    request_record: ClassVar[np.dtype]
    stuck_words: ClassVar[Mapping[int, str]] = {}

    def __init__(
        self,
        requests: RequestTable,
        instance: Any,
        *,
        seed: int = 42,
        record_batches: bool = True,
        record_events: bool = False,
        sample_times: ArrayLike | None = None,
        decision_log: str | Path | None = None,
        request_log: str | Path | None = None,
        log_extended: bool = False,
    ) -> None:
        check_fits(requests, instance)
        if seed < 0:
            raise ConfigError("seed", seed, "a whole number >= 0")
        self.instance, self.seed = instance, seed
        self.record_batches, self.record_events = record_batches, record_events
        self.state = np.zeros(1, self.state_record)
        self._law = instance.batch_time.vector()
        grid = np.empty(0) if sample_times is None else np.asarray(sample_times, np.float64)
        if grid.size and (not np.isfinite(grid).all() or (np.diff(grid) < 0).any()):
            raise FluidServeError("sample_times must be finite and sorted")
        self.grid, self.samples = grid, np.zeros(grid.size, SAMPLE)
        self.finished, self.status = False, "pending"
        self._extended, self._request_log = log_extended, request_log
        self._decisions = None
        if decision_log is not None:
            self._decisions = DecisionLog(decision_log, extended=log_extended)
        kept = {
            "rows": True,
            "spans": record_batches,
            "events": record_events,
            **dict.fromkeys(("decisions", "words", "outcomes"), self._decisions is not None),
        }
        self.sinks = {
            name: np.zeros(AT_FIRST if kept[name] else 0, dtype) for name, dtype in SINKS.items()
        }
        self._write_settings()
        self.state["last_emitting"] = NOBODY
        self._set_requests(requests, np.empty(0, self.request_record))

    # --- what a subclass adds ---------------------------------------------------------------------

    def _write_settings(self) -> None:
        """Write the instance into the state; a subclass adds its own settings."""
        own = {
            "cpu_gap": self.instance.cpu_gap,
            "block_size": self.instance.block_size,
            "record_steps": self.record_batches,
            "record_events": self.record_events,
            "log_decisions": self._decisions is not None,
            "extended": self._extended,
        }
        for name, value in own.items():
            self.state[name] = value

    @abstractmethod
    def _fill(self, records: NDArray, requests: RequestTable, known: int) -> None:
        """Fill the records of the requests from row ``known`` on."""

    @abstractmethod
    def _tables(self) -> dict[str, NDArray]:
        """Return the tables of the subclass by the names of their addresses."""

    @abstractmethod
    def _advance(self, until: float, steps: int, fuel: int) -> int:
        """Call the kernel."""

    @abstractmethod
    def _own_arrays(self) -> dict[str, NDArray]:
        """Return what changes in the tables of the subclass."""

    @abstractmethod
    def _restore_own(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over what :meth:`_own_arrays` returned."""

    # --- requests ---------------------------------------------------------------------------------

    def _set_requests(self, requests: RequestTable, known: NDArray) -> None:
        """Hold ``requests``, the first of which have the states ``known``."""
        self._given, self._sent, self._bound = requests, None, False
        self._arrivals = np.ascontiguousarray(requests.arrival_time)
        self.req = np.zeros(len(requests), self.request_record)
        self.req[: known.size] = known
        new = self.req[known.size :]
        for moment in ("first_sched", "first_token", "done"):
            new[moment] = np.nan
        for link in ("span_first", "span_last"):
            new[link] = NOBODY
        new["prompt"] = requests.prefill_length[known.size :]
        new["output"] = requests.decode_length[known.size :]
        new["length"] = new["prompt"]
        self._fill(self.req, requests, known.size)

    def hold_back(self) -> None:
        """Let nobody arrive but whom :meth:`send` sends; see :meth:`discrete.Engine.hold_back`."""
        if self._decisions is not None or self._request_log is not None:
            raise UnsupportedError(
                "requests are held back where no log of decisions or of requests is written"
            )
        super().hold_back()

    def _empty_tables(self) -> None:
        self._offered, self.req = self.req, np.zeros_like(self.req)
        self._arrivals = np.zeros_like(self._arrivals)

    def _put(self, number: int, row: int, time: float) -> None:
        self._arrivals[number] = time
        self.req[number] = self._offered[row]

    @property
    def time(self) -> float:
        """The present [time]."""
        return float(self.state["time"][0])

    @property
    def batch(self) -> int:
        """Schedule() calls so far."""
        return int(self.state["steps"][0])

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        s = self.state[0]
        return Progress(self.time, self.batch, int(s["left"]), int(s["arrived"]), self._total)

    def advance(
        self,
        *,
        until: float | None = None,
        batches: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Stop:
        """Run until everyone has finished, or a limit is met, or nothing can go on.

        Parameters
        ----------
        until : [time]
            Stop at the first iteration of the loop at or after it.
        batches
            Stop after so many more schedule() calls.
        progress
            Called between chunks of some tens of milliseconds.

        Returns
        -------
        Stop
            FINISHED, UNTIL, BATCHES or STUCK; ``status`` says how a run ended.
        """
        end = math.inf if until is None else float(until)
        last = UNLIMITED if batches is None else self.batch + batches
        while True:
            if not self._bound:
                self.bind()
            left = UNLIMITED if batches is None else last - self.batch
            stop = self._advance(end, left, FUEL)
            if self._decisions is not None:
                self._drain(whole=stop in self.stuck_words)
            if stop == ROWS_FULL:
                self._grow()
            elif stop != PAUSE:
                return self._stopped(stop)
            if progress is not None:
                progress(self.progress)

    def _stopped(self, stop: int) -> Stop:
        self.finished = stop == Stop.FINISHED
        self.status = self.stuck_words.get(stop, "finished" if self.finished else "pending")
        if self._request_log is not None:
            table = self._requests_as_sent()
            write_request_log(self._request_log, table, self.req, extended=self._extended)
        return Stop.STUCK if stop in self.stuck_words else Stop(stop)

    def _requests_as_sent(self) -> RequestTable:
        """Return the requests, row by row, at the times at which they were sent."""
        return self.requests

    def bind(self) -> None:
        """Tell the kernel where the tables lie; whoever replaces one calls for it again."""
        tables = {
            "requests": self.req, "arrivals": self._arrivals, "grid": self.grid,
            "samples": self.samples, "law": self._law, **self.sinks, **self._tables(),
        }  # fmt: skip
        for name, table in tables.items():
            self.state[f"{name}_at"] = table.ctypes.data
        for name in (*SINKS, "grid"):
            self.state[f"{name}_size"] = tables[name].size
        self.state["total"] = self._total
        self._bound = True

    def _grow(self) -> None:
        """Make every sink in use that is nearly full larger, at least by what an iteration adds."""
        s = self.state[0]
        least = 8 * int(s["arrived"] - s["left"] + 2) + 64
        for name, sink in self.sinks.items():
            fixed = name == "decisions" or (name == "rows" and not self.record_batches)
            if sink.size and not fixed and sink.size - s[name] < least:
                larger = np.zeros(2 * sink.size + least, sink.dtype)
                larger[: s[name]] = sink[: s[name]]
                self.sinks[name] = larger
        self._bound = False

    def _drain(self, *, whole: bool) -> None:
        """Hand the decisions whose output was applied to the log, or all, and keep the others."""
        s = self.state[0]
        done = int(s["decisions"] - (0 if whole else s["steps"] - s["committed"]))
        assert self._decisions is not None
        sinks: dict[str, Any] = self.sinks
        words, outcomes = self._decisions.take(
            self._rows(int(s["decisions"]))[:done],
            sinks["decisions"][:done],
            sinks["words"],
            sinks["outcomes"],
        )
        for name, gone in (("decisions", done), ("words", words), ("outcomes", outcomes)):
            sink, left = self.sinks[name], int(s[name]) - gone
            sink[:left] = sink[gone : gone + left].copy()
            self.state[name] = left

    def _rows(self, count: int) -> NDArray:
        """Return the last rows of the step log, also where only those in use are kept."""
        sink, steps = self.sinks["rows"], int(self.state["steps"][0])
        at = np.arange(steps - count, steps)
        return sink[at if self.record_batches else at % sink.size]

    def inject(
        self, requests: RequestTable, *, at: float | None = None, replace: bool = True
    ) -> None:
        """Send other requests from a given time on; see :meth:`discrete.Engine.inject`.

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
        self._set_requests(table, self.req[:arrived])
        self.state["samples"] = min(self.state["samples"][0], np.searchsorted(self.grid, self.time))
        self.finished = False

    def arrays(self) -> dict[str, NDArray]:
        """Return everything that changes, by name; with the requests it is the whole state."""
        s = self.state[0]
        kept = {name: sink[: s[name]] for name, sink in self.sinks.items()}
        if not self.record_batches:
            kept["rows"] = self.sinks["rows"]
        clock = np.array([tuple(s[name] for name in self.clock_record.names or ())],
                         self.clock_record)  # fmt: skip
        own = self._own_arrays()
        req = self.req[: self._total]
        return {"clock": clock, "req": req, "grid": self.grid, "samples": self.samples} | {
            **kept, **own
        }  # fmt: skip

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over what :meth:`arrays` returned for the same requests and instance."""
        for name in self.clock_record.names or ():
            self.state[name] = arrays["clock"][name]
        self.req, self.samples = arrays["req"], arrays["samples"]
        for name, sink in self.sinks.items():
            if sink.size:
                saved = arrays[name]
                if name == "rows" and not self.record_batches:
                    self.sinks[name] = saved
                else:
                    spare = np.zeros(AT_FIRST, sink.dtype)
                    self.sinks[name] = np.concatenate([saved, spare])
        self._restore_own(arrays)
        self._bound = False

    def _log(self) -> VllmLog:
        s = self.state[0]
        return VllmLog(
            requests=self.requests,
            instance=self.instance,
            scalars=self.state.copy()[0],
            req=self.req[: self._total].copy(),
            rows=self.sinks["rows"][: s["rows"]].copy(),
            closed_spans=self.sinks["spans"][: s["spans"]],
            events=self.sinks["events"][: s["events"]],
            grid=self.grid[: s["samples"]],
            samples=self.samples[: s["samples"]].copy(),
            finished=self.finished,
            status=self.status,
        )

    def run(self) -> Run:
        """Return what has happened so far; it does not change when the engine goes on."""
        return Run(
            self._log(),
            seed=self.seed,
            record_batches=self.record_batches,
            record_events=self.record_events,
        )
