"""What a simulation produced: records, trajectories, latencies, metrics and files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from discrete._client import client_records, completed
from discrete._log import HELD, Log
from discrete._outputs import Outputs, TellsOutputs
from discrete._records import Records
from serving import (
    ClientRecords,
    FluidServeError,
    LatencySamples,
    RequestTable,
    ServingMetrics,
    Trajectory,
    UnsupportedError,
    checked_totals,
)
from serving.arguments import checked

FILES = {
    "batches": "batch_snapshots.csv",
    "requests": "request_traces.csv",
    "events": "events.csv",
    "memory_events": "memory_events.csv",
}
"""Name of the run file of each table."""


class Run:
    """What happened, read lazily from what the engine wrote.

    Parameters
    ----------
    log
        What the engine wrote.
    seed
        Of what is random in the engine.
    record_batches, record_events
        What was recorded besides the requests.
    """

    def __init__(self, log: Log, *, seed: int, record_batches: bool, record_events: bool) -> None:
        self._log, self.seed, self.instance = log, seed, log.instance
        self.record_batches, self.record_events = record_batches, record_events

    @property
    def table(self) -> RequestTable:
        """The requests as they were given."""
        return self._log.requests

    @property
    def finished(self) -> bool:
        """Whether every request has finished."""
        return self._log.finished

    @property
    def duration(self) -> float:
        """From 0 to the last completion, or to the end of what was run [time]."""
        return self._log.time

    @property
    def num_batches(self) -> int:
        """Batches executed."""
        return self._log.num_batches

    @cached_property
    def requests(self) -> Records:
        """One row per request, in table order (the columns of ``request_traces.csv``)."""
        return self._log.request_records()

    @cached_property
    def batches(self) -> Records:
        """One row per batch (the columns of ``batch_snapshots.csv``, and more)."""
        self._need("batches", self.record_batches)
        return self._log.batch_records()

    @cached_property
    def events(self) -> Records:
        """One row per event (the columns of ``events.csv``)."""
        self._need("events", self.record_events)
        return self._log.event_records()

    @cached_property
    def memory_events(self) -> Records:
        """One row per allocation or release of KV (the columns of ``memory_events.csv``)."""
        self._need("events", self.record_events)
        return self._log.memory_event_records()

    @cached_property
    def spans(self) -> Records:
        """Consecutive batches in which a request executed: request, first and last batch, k."""
        self._need("batches", self.record_batches)
        return self._log.spans()

    def _need(self, what: str, recorded: bool) -> None:
        if not recorded:
            raise FluidServeError(f"this run did not record {what}; simulate(record_{what}=True)")

    @checked()
    def trajectory(self, t: ArrayLike | None = None) -> Trajectory:
        """Return every output over time, exactly as the scheduler set it.

        Parameters
        ----------
        t : shape (T,) [time]
            Sample there instead of at every boundary and arrival (cheaper); without batch rows
            only the run's own ``sample_times`` are known.
        """
        if t is None and self.record_batches:
            time, held = self._log.steps()
            time, held = _with_arrivals(time, held, self._arrived_times())
        elif t is None or np.array_equal(np.asarray(t, float), self._log.grid):
            time, held = self._samples()
        else:
            self._need("batches", self.record_batches)
            time = np.asarray(t, float)
            knots, values = self._log.steps()
            k = np.maximum(np.searchsorted(knots, time, side="right") - 1, 0)
            held = {name: value[k] for name, value in values.items()}
        arrived = np.searchsorted(self._arrived_times(), time, side="right")
        in_system = arrived - held["completed"]
        waiting = in_system - held["running"] - held["swapped"]
        outputs = {"waiting": waiting, "in_system": in_system} | {name: held[name] for name in HELD}
        outputs = {name: value.astype(float) for name, value in outputs.items()}
        return Trajectory(time, outputs, frozenset(outputs))

    def _arrived_times(self) -> NDArray[np.float64]:
        return self.table.arrival_time[: self._log.num_arrived]

    def _samples(self) -> tuple[NDArray[np.float64], Mapping[str, NDArray]]:
        if not self._log.grid.size:
            raise FluidServeError(
                "this run recorded no trajectory; simulate(record_batches=True) or sample_times="
            )
        return self._log.grid, self._log.sampled()

    @checked()
    def samples(self, first: int = 0) -> LatencySamples:
        """Return the latencies of completed requests, and of their tokens if recorded.

        Parameters
        ----------
        first
            Leave out the requests before this row of the table: the warm-up of a long run.
        """
        requests = self.requests
        done = completed(requests)
        done[:first] = False
        of = {name: requests[name][done] for name in requests}
        arrival, first_token = of["arrival_time"], of["first_token_time"]
        more = of["decode_length"] - 1
        last = of["completion_time"]
        itl = {}
        if self.record_batches:
            latency, weight = self._log.inter_token_latencies(first)
            itl = {"itl": latency, "itl_weight": weight}
        return LatencySamples(
            queue_delay=of["first_enter_running_time"] - arrival,
            ttft=first_token - arrival,
            tpot=np.where(more > 0, (last - first_token) / np.maximum(more, 1), np.nan),
            e2el=last - arrival,
            weight=np.ones(arrival.size),
            **itl,
        )

    @checked()
    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics of the run.

        Parameters
        ----------
        goodput
            Threshold [time] by latency name, such as ``{"ttft": 2.0}``.
        """
        return ServingMetrics.summarise(self.samples(), self._log.totals(), goodput)

    def totals(self) -> dict[str, float]:
        """Return every total of :data:`serving.TOTALS`, NaN where the engine knows none."""
        return checked_totals(self._log.totals())

    def client_records(self) -> ClientRecords:
        """Return what a client that sent the requests would have noted, in seconds.

        Requests that had not been sent when the run ended are left out; those that had not been
        answered, and those that were aborted, failed.

        Raises
        ------
        UnsupportedError
            If times have no unit, or the engine does not tell when outputs came.
        """
        self._need("batches", self.record_batches)
        return client_records(self._log, self.requests)

    def outputs(self) -> Outputs:
        """Return the chunks of output of every request of the table, and when they came.

        Raises
        ------
        UnsupportedError
            If the engine does not tell.
        """
        self._need("batches", self.record_batches)
        if not isinstance(self._log, TellsOutputs):
            raise UnsupportedError(
                f"the engine {self.instance.engine} does not tell when outputs came"
            )
        return self._log.outputs()

    def fragmentation(self) -> Mapping[str, float]:
        """Return the KV that is wasted, in the senses that the engine tells apart."""
        return self._log.fragmentation()

    @checked()
    def write(self, folder: str | Path) -> list[Path]:
        """Write the run files of what was recorded; each appears whole or not at all.

        Raises
        ------
        FileAccessError
            If a file cannot be written.
        """
        wanted = ["requests"]
        wanted += ["batches"] if self.record_batches else []
        wanted += ["events", "memory_events"] if self.record_events else []
        paths = []
        for name in wanted:
            paths.append(Path(folder) / FILES[name])
            getattr(self, name).write_csv(paths[-1])
        return paths


def _with_arrivals(
    time: NDArray[np.float64], held: Mapping[str, NDArray], arrivals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, NDArray]]:
    """Insert the arrivals among the boundaries; what is held does not change at them."""
    where = np.searchsorted(time, arrivals, side="right")
    return np.insert(time, where, arrivals), {
        name: np.insert(value, where, value[where - 1]) for name, value in held.items()
    }
