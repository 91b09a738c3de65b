"""What a simulation produced: records, trajectories, latencies, metrics and files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from discrete._latency import inter_token_latencies
from discrete._records import Records
from discrete.decode_node.log import DecodeNodeLog
from serving import (
    FluidServeError,
    LatencySamples,
    RequestTable,
    ServingMetrics,
    Trajectory,
)

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
        The engine's arrays.
    seed
        Of the random victim policy.
    record_batches, record_events
        What was recorded besides the requests.
    """

    def __init__(
        self, log: DecodeNodeLog, *, seed: int, record_batches: bool, record_events: bool
    ) -> None:
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
        return int(self._log.scalars["batch"])

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
        rows = self._log.span_rows()
        return Records({name: rows[name].copy() for name in rows.dtype.names or ()})

    def _need(self, what: str, recorded: bool) -> None:
        if not recorded:
            raise FluidServeError(f"this run did not record {what}; simulate(record_{what}=True)")

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
        outputs = {
            "waiting": in_system - held["running"] - held["swapped"],
            "in_system": in_system,
            "running": held["running"],
            "swapped": held["swapped"],
            "completed": held["completed"],
            "evicted": held["evicted"],
            "memory": held["memory"],
            "batch_size": held["size"],
            "batch_tokens": held["tokens"],
            "batch_duration": held["duration"],
        }
        outputs = {name: value.astype(float) for name, value in outputs.items()}
        return Trajectory(time, outputs, frozenset(outputs))

    def _arrived_times(self) -> NDArray[np.float64]:
        return self.table.arrival_time[: int(self._log.scalars["arrived"])]

    def _samples(self) -> tuple[NDArray[np.float64], dict[str, NDArray]]:
        if not self._log.grid.size:
            raise FluidServeError(
                "this run recorded no trajectory; simulate(record_batches=True) or sample_times="
            )
        samples = self._log.samples
        return self._log.grid, {name: samples[name] for name in samples.dtype.names or ()}

    def samples(self, first: int = 0) -> LatencySamples:
        """Return the latencies of completed requests, and of their tokens if recorded.

        Parameters
        ----------
        first
            Leave out the requests before this row of the table: the warm-up of a long run.
        """
        requests = self.requests
        done = np.isfinite(requests["completion_time"])
        done[:first] = False
        of = {name: requests[name][done] for name in requests}
        arrival, first_token = of["arrival_time"], of["first_token_time"]
        more = of["decode_length"] - 1
        last = of["completion_time"]
        itl = {}
        if self.record_batches:
            rows = self._log.batches
            spans = self._log.span_rows()
            latency, weight = inter_token_latencies(
                spans[spans["request"] >= first], rows["start"], rows["duration"]
            )
            itl = {"itl": latency, "itl_weight": weight}
        return LatencySamples(
            queue_delay=of["first_enter_running_time"] - arrival,
            ttft=first_token - arrival,
            tpot=np.where(more > 0, (last - first_token) / np.maximum(more, 1), np.nan),
            e2el=last - arrival,
            weight=np.ones(arrival.size),
            **itl,
        )

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics of the run.

        Parameters
        ----------
        goodput
            Threshold [time] by latency name, such as ``{"ttft": 2.0}``.
        """
        s, node = self._log.scalars, self.instance
        tokens = self._log.furthest().astype(float)
        useful = tokens * self.table.prefill_length + tokens * (tokens + 1) / 2
        duration, capacity = self.duration, min(node.M_total, node.token_budget)
        return ServingMetrics.summarise(
            self.samples(),
            goodput=goodput,
            duration=duration,
            completed=float(s["completed"]),
            output_tokens=float(tokens.sum()),
            memory_utilization=_ratio(s["memory_time"], node.M_total * duration),
            gpu_utilization=_ratio(s["busy"], duration),
            processing_efficiency=_ratio(useful.sum(), capacity * self.num_batches),
            evictions=float(s["evicted"]),
            recompute_waste=float(s["lost_tokens"]),
        )

    def fragmentation(self) -> dict[str, float]:
        """Return the KV that is wasted, in three senses.

        ``block_internal`` is the share of KV lost inside blocks (0: this engine's memory is in
        tokens), ``blocked`` the time-mean share of KV that is free while requests wait for it,
        ``recompute_waste`` the tokens decoded and thrown away.
        """
        s, whole = self._log.scalars, self.instance.M_total * self.duration
        return {
            "block_internal": 0.0,
            "blocked": _ratio(s["blocked_time"], whole),
            "recompute_waste": float(s["lost_tokens"]),
        }

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
    time: NDArray[np.float64], held: dict[str, NDArray], arrivals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, NDArray]]:
    """Insert the arrivals among the boundaries; what is held does not change at them."""
    where = np.searchsorted(time, arrivals, side="right")
    return np.insert(time, where, arrivals), {
        name: np.insert(value, where, value[where - 1]) for name, value in held.items()
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
