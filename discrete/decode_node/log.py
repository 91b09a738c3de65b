"""What the decode-node kernel wrote, turned into records, steps and totals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from discrete._latency import inter_token_latencies
from discrete._log import HELD
from discrete._outputs import Outputs, outputs_of_spans
from discrete._records import Records
from discrete.decode_node.layout import SPAN, Kind, Place
from serving import KINDS, DecodeNode, RequestTable

SNAPSHOT = tuple(column.name for column in KINDS[DecodeNode.engine].snapshot)
"""Columns of the batch file: the state right after each batch."""

KIND_NAMES = np.array([kind.name.lower() for kind in Kind])
"""Event types in the words of the event file."""

FIELD_OF = {"batch_size": "size", "batch_tokens": "tokens", "batch_duration": "duration"}
"""Fields of the kernel's rows whose names are shorter than those of the outputs."""


@dataclass(frozen=True, eq=False)
class DecodeNodeLog:
    """The arrays of a decode node at rest; see ``_layout`` for their fields.

    Parameters
    ----------
    requests, instance
        As given to the engine.
    scalars
        One record of the engine's state.
    req, past : shape (R,)
    batches, closed_spans, events
        Rows written so far.
    grid, samples : shape (G,)
        Times sampled so far and the state at them.
    finished
        Whether everyone has finished.
    """

    requests: RequestTable
    instance: DecodeNode
    scalars: np.void
    req: NDArray
    past: NDArray
    batches: NDArray
    closed_spans: NDArray
    events: NDArray
    grid: NDArray[np.float64]
    samples: NDArray
    finished: bool

    @property
    def time(self) -> float:
        """The present [time]."""
        return float(self.scalars["time"])

    @property
    def num_batches(self) -> int:
        """Batches executed."""
        return int(self.scalars["batch"])

    @property
    def num_arrived(self) -> int:
        """Requests that have arrived."""
        return int(self.scalars["arrived"])

    def sampled(self) -> dict[str, NDArray]:
        """Return each of :data:`discrete.HELD` at the times of the grid, shape (G,)."""
        return {name: self.samples[FIELD_OF.get(name, name)] for name in HELD}

    def executing(self) -> NDArray[np.int64]:
        """Return the members of the last execution batch that have not finished."""
        members, r = [], int(self.scalars["last_executing"])
        while r >= 0:
            members.append(r)
            r = int(self.req["previous"][r])
        return np.array(members[::-1], np.int64)

    def furthest(self) -> NDArray[np.int64]:
        """Return how many tokens each request has produced, counting none twice, shape (R,)."""
        decoded = self.req["progress"].copy()
        now = self.executing()
        decoded[now] = self.scalars["batch"] - decoded[now]
        done = ~np.isnan(self.req["completion"])
        return np.where(done, self.req["decode"], np.maximum(decoded, self.past["furthest"]))

    def request_records(self) -> Records:
        """Return one row per request, in table order."""
        req, past = self.req, self.past
        arrival = self.requests.arrival_time
        enter, completion = req["first_enter"].copy(), req["completion"].copy()
        end = np.where(np.isnan(completion), self.time, completion)
        evicted = past["swaps"] + past["sacrifices"] > 0
        here = np.arange(arrival.size) < self.scalars["arrived"]
        entered = ~np.isnan(enter)
        waiting = np.where(past["sacrifices"] > 0, past["waiting"], enter - arrival)
        waiting = np.where(entered, waiting, np.where(here, end - arrival, 0.0))
        place = past["place"]
        since = np.where(evicted, past["since"], enter)
        present = end - since
        waiting = np.where(place == Place.WAITING, waiting + present, waiting)
        swapped = past["swapped"] + np.where(place == Place.SWAPPED, present, 0.0)
        runs = entered & (place == Place.USUAL)
        executing = past["executing"] + np.where(runs, present, 0.0)
        return Records(
            {
                "req_id": np.arange(arrival.size),
                "arrival_time": arrival,
                "prefill_length": self.requests.prefill_length,
                "decode_length": self.requests.decode_length,
                "completion_time": completion,
                "first_enter_running_time": enter,
                "first_token_time": req["first_token"].copy(),
                "waiting_time": waiting,
                "execution_time": executing,
                "swapped_time": swapped,
                "swap_count": past["swaps"].copy(),
                "sacrifice_count": past["sacrifices"].copy(),
                "total_delay": waiting + executing + swapped,
            }
        )

    def batch_records(self) -> Records:
        """Return one row per batch: right after it, and (more columns) while it ran."""
        rows = self.batches
        end = rows["start"] + rows["duration"]
        completed = rows["completed"].copy()
        running = rows["running"] - np.diff(completed, prepend=0)
        arrived = np.searchsorted(self.requests.arrival_time, end, side="right")
        memory = rows["memory_after"].copy()
        return Records(
            {
                "time": end,
                "batch_id": np.arange(rows.size),
                "batch_size": rows["size"].copy(),
                "batch_tokens": rows["tokens"].copy(),
                "batch_duration": rows["duration"].copy(),
                "waiting_count": arrived - completed - running - rows["swapped"],
                "running_count": running,
                "swapped_count": rows["swapped"].copy(),
                "completed_count": completed,
                "gpu_memory_used": memory,
                "memory_utilization": memory / self.instance.M_total,
                "start_time": rows["start"].copy(),
                "running_during": rows["running"].copy(),
                "memory_during": rows["memory"].copy(),
                "evicted_count": rows["evicted"].copy(),
            },
            SNAPSHOT,
        )

    @cached_property
    def _events_in_time(self) -> NDArray:
        return self.events[np.argsort(self.events["time"], kind="stable")]

    def event_records(self) -> Records:
        """Return the events in order of time; ``details`` holds the tokens decoded so far."""
        rows = self._events_in_time
        seen = np.flatnonzero(np.bincount(rows["decoded"]))
        details = np.array(["", *(f"decoded={k}" for k in seen)])
        which = np.searchsorted(seen, rows["decoded"]) + 1
        which[rows["kind"] == Kind.ARRIVE] = 0
        return Records(
            {
                "time": rows["time"].copy(),
                "event_type": KIND_NAMES[rows["kind"]],
                "req_id": rows["request"].copy(),
                "details": details[which],
            }
        )

    def memory_event_records(self) -> Records:
        """Return who took or gave back KV; in between it grows by a token per executed request."""
        rows = self._events_in_time
        rows = rows[rows["kind"] != Kind.ARRIVE]
        takes = np.isin(rows["kind"], (Kind.ADMIT, Kind.SWAP_IN))
        tokens = self.req["prefill"][rows["request"]] + rows["decoded"]
        return Records(
            {
                "time": rows["time"].copy(),
                "event_type": np.where(takes, "allocate", "free"),
                "req_id": rows["request"].copy(),
                "memory_before": rows["memory"].copy(),
                "memory_after": rows["memory"] + np.where(takes, tokens, -tokens),
                "reason": KIND_NAMES[rows["kind"]],
            }
        )

    def span_rows(self) -> NDArray:
        """Return the execution spans, those still open included (:data:`SPAN`)."""
        now = self.executing()
        still = np.empty(now.size, SPAN)
        still["request"], still["first_batch"] = now, self.req["stay"][now]
        still["last_batch"] = self.scalars["batch"] - 1
        still["first_token"] = self.req["stay"][now] - self.req["progress"][now]
        return np.concatenate([self.closed_spans, still])

    def spans(self) -> Records:
        """Return the execution spans: request, first and last batch, tokens before them."""
        rows = self.span_rows()
        return Records({name: rows[name].copy() for name in rows.dtype.names or ()})

    def inter_token_latencies(self, first: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return latencies [time] between tokens, and how often each occurs, from row ``first``."""
        rows, spans = self.batches, self.span_rows()
        return inter_token_latencies(
            spans[spans["request"] >= first], rows["start"], rows["duration"]
        )

    def outputs(self) -> Outputs:
        """Return the chunks of every request of the table: one token at the end of each batch."""
        rows = self.batches
        return outputs_of_spans(
            self.span_rows(), rows["start"] + rows["duration"], len(self.requests)
        )

    def totals(self) -> dict[str, float]:
        """Return every total of :data:`serving.TOTALS`."""
        s, node, duration = self.scalars, self.instance, self.time
        tokens = self.furthest().astype(float)
        useful = tokens * self.requests.prefill_length + tokens * (tokens + 1) / 2
        capacity = min(node.M_total, node.token_budget)
        return {
            "duration": duration,
            "completed": float(s["completed"]),
            "output_tokens": float(tokens.sum()),
            "memory_utilization": _ratio(s["memory_time"], node.M_total * duration),
            "gpu_utilization": _ratio(s["busy"], duration),
            "processing_efficiency": _ratio(useful.sum(), capacity * self.num_batches),
            "evictions": float(s["evicted"]),
            "recompute_waste": float(s["lost_tokens"]),
        }

    def fragmentation(self) -> dict[str, float]:
        """Return the KV that is wasted, in three senses.

        ``block_internal`` is the share of KV lost inside blocks (0: this engine's memory is in
        tokens), ``blocked`` the time-mean share of KV that is free while requests wait for it,
        ``recompute_waste`` the tokens decoded and thrown away.
        """
        s, whole = self.scalars, self.instance.M_total * self.time
        return {
            "block_internal": 0.0,
            "blocked": _ratio(s["blocked_time"], whole),
            "recompute_waste": float(s["lost_tokens"]),
        }

    def steps(self) -> tuple[NDArray[np.float64], dict[str, NDArray]]:
        """Return the boundaries and what holds from each on: :data:`discrete.HELD` by name.

        A batch that an idle time follows, and the last one, have a boundary at their end too.
        """
        rows = self.batches
        empty = np.zeros(1, rows.dtype)
        end = rows["start"] + rows["duration"]
        idle = end != np.append(rows["start"][1:], np.nan)
        completed = np.append(0, rows["completed"])
        fields = {name: FIELD_OF.get(name, name) for name in HELD}
        during = {name: rows[field] for name, field in fields.items()}
        during["completed"] = completed[:-1]
        after = {name: np.zeros(idle.sum(), rows[field].dtype) for name, field in fields.items()}
        after["running"] = (rows["running"] - np.diff(completed))[idle]
        after["memory"] = rows["memory_after"][idle]
        for name in ("swapped", "completed", "evicted"):
            after[name] = rows[name][idle]
        time = np.concatenate([[0.0], rows["start"], end[idle]])
        # a batch that ends where an idle time begins is followed by its own end
        rank = np.concatenate([[-1.0], np.arange(rows.size), np.flatnonzero(idle) + 0.5])
        order = np.argsort(rank, kind="stable")
        values = {
            name: np.concatenate([empty[field], during[name], after[name]])[order]
            for name, field in fields.items()
        }
        return time[order], values


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
