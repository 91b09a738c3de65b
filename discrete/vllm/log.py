"""What a vLLM kernel wrote, turned into records, steps and totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discrete._client import client_records
from discrete._log import HELD
from discrete._outputs import Outputs, chunks
from discrete._records import Records
from discrete.vllm.layout import SPAN, Event, Status, status_words
from serving import SECONDS, RequestTable, bench_serve_peaks, kind_of

EVENT_NAMES = np.array([each.name.lower() for each in Event])
"""Event types in the words of the event file."""

TAKES = (Event.ADMIT, Event.SWAP_IN)
"""Events after which a request holds KV."""


@dataclass(frozen=True, eq=False)
class VllmLog:
    """The arrays of a vLLM engine at rest; see ``layout`` for their fields.

    Parameters
    ----------
    requests, instance
        As given to the engine.
    scalars
        One record of the engine's state.
    req : shape (R,)
    rows, closed_spans, events
        Rows written so far.
    grid, samples : shape (G,)
        Times sampled so far and the state at them.
    finished
        Whether everyone has finished.
    status
        How the run ended: ``finished``, ``pending``, or why it cannot go on.
    number : shape (R,)
        What the files call each request; its row where None.
    """

    requests: RequestTable
    instance: Any
    scalars: np.void
    req: NDArray
    rows: NDArray
    closed_spans: NDArray
    events: NDArray
    grid: NDArray[np.float64]
    samples: NDArray
    finished: bool
    status: str
    number: NDArray[np.int64] | None = None

    def in_order(self, rows: NDArray[np.int64], times: NDArray[np.float64]) -> VllmLog:
        """Return the log with requests in the order in which they were sent, at ``times`` [time].

        Events name requests as before; so do the files of the run.
        """
        place = np.empty_like(rows)
        place[rows] = np.arange(rows.size)
        spans = self.closed_spans.copy()
        spans["request"] = place[spans["request"]]
        requests = self.requests.in_order(rows, times)
        return replace(self, requests=requests, req=self.req[rows], closed_spans=spans, number=rows)

    @property
    def time(self) -> float:
        """The present [time]."""
        return float(self.scalars["time"])

    @property
    def num_batches(self) -> int:
        """Schedule() calls so far."""
        return int(self.scalars["steps"])

    @property
    def num_arrived(self) -> int:
        """Requests that have arrived."""
        return int(self.scalars["arrived"])

    @cached_property
    def _applied(self) -> NDArray:
        """The steps whose output was applied."""
        return self.rows[: int(self.scalars["committed"])]

    def _held(self, rows: NDArray) -> dict[str, NDArray]:
        """Return each of :data:`discrete.HELD` for rows of steps or samples."""
        is_step = "prefill_tokens" in (rows.dtype.names or ())
        tokens = rows["prefill_tokens"] + rows["decode_tokens"] if is_step else rows["tokens"]
        values = {
            "running": rows["running"],
            "swapped": rows["swapped"],
            "completed": rows["left"],
            "evicted": rows["evicted"],
            "memory": rows["blocks"] * self.instance.block_size,
            "batch_size": rows["size"],
            "batch_tokens": tokens,
            "batch_duration": rows["duration"],
        }
        return {name: values[name] for name in HELD}

    def sampled(self) -> dict[str, NDArray]:
        """Return each of :data:`discrete.HELD` at the times of the grid, shape (G,)."""
        return self._held(self.samples)

    def request_records(self) -> Records:
        """Return one row per request, in table order."""
        req, arrival = self.req, self.requests.arrival_time
        enter, done = req["first_sched"].copy(), req["done"].copy()
        completion = np.where(req["status"] == Status.FINISHED, done, np.nan)
        here = np.arange(arrival.size) < self.scalars["arrived"]
        end = np.where(np.isnan(done), np.where(here, self.time, arrival), done)
        waiting = np.where(np.isnan(enter), end, enter) - arrival
        return Records(
            {
                "req_id": np.arange(arrival.size) if self.number is None else self.number,
                "arrival_time": arrival,
                "prefill_length": self.requests.prefill_length,
                "decode_length": self.requests.decode_length,
                "completion_time": completion,
                "first_enter_running_time": enter,
                "first_token_time": req["first_token"].copy(),
                "waiting_time": np.where(here, waiting, 0.0),
                "preemption_count": req["preemptions"].copy(),
                "swap_in_count": req["swap_ins"].copy(),
                "recomputed_tokens": req["recomputed"].copy(),
                "cached_tokens": req["hit_tokens"].copy(),
                "output_tokens": req["generated"].copy(),
                "total_delay": np.where(here, end - arrival, 0.0),
                "status": status_words(req["status"]),
            }
        )

    def batch_records(self) -> Records:
        """Return one row per schedule() call: right after its output was applied."""
        rows = self._applied
        arrived = np.searchsorted(self.requests.arrival_time, rows["end"], side="right")
        memory = rows["blocks_after"] * self.instance.block_size
        limit = kind_of(self.instance).limits(self.instance)["memory"].value
        columns = {
            "time": rows["end"].copy(),
            "batch_id": np.arange(rows.size),
            "batch_size": rows["size"].copy(),
            "batch_tokens": rows["prefill_tokens"] + rows["decode_tokens"],
            "prefill_tokens": rows["prefill_tokens"].copy(),
            "decode_tokens": rows["decode_tokens"].copy(),
            "context_tokens": rows["context"].copy(),
            "batch_duration": rows["duration"].copy(),
            "waiting_count": arrived - rows["left"] - rows["running_after"] - rows["swapped_after"],
            "running_count": rows["running_after"].copy(),
            "swapped_count": rows["swapped_after"].copy(),
            "completed_count": rows["left"].copy(),
            "gpu_memory_used": memory,
            "memory_utilization": memory / limit,
            "start_time": rows["start"].copy(),
            "scheduled_time": rows["scheduled"].copy(),
            "evicted_count": rows["evicted"].copy(),
        }
        in_file = [column.name for column in kind_of(self.instance).snapshot]
        return Records(columns, in_file)

    @cached_property
    def _events_in_time(self) -> NDArray:
        return self.events[np.argsort(self.events["time"], kind="stable")]

    def event_records(self) -> Records:
        """Return the events in order of time; ``details`` holds the tokens decoded so far."""
        rows = self._events_in_time
        seen = np.unique(rows["decoded"])
        details = np.array(["", *(f"decoded={k}" for k in seen)])
        which = np.searchsorted(seen, rows["decoded"]) + 1
        which[rows["kind"] == Event.ARRIVE] = 0
        return Records(
            {
                "time": rows["time"].copy(),
                "event_type": EVENT_NAMES[rows["kind"]],
                "req_id": rows["request"].copy(),
                "details": details[which],
            }
        )

    def memory_event_records(self) -> Records:
        """Return who took or gave back KV, and the KV in use right before."""
        rows = self._events_in_time
        rows = rows[rows["kind"] != Event.ARRIVE]
        return Records(
            {
                "time": rows["time"].copy(),
                "event_type": np.where(np.isin(rows["kind"], TAKES), "allocate", "free"),
                "req_id": rows["request"].copy(),
                "memory_before": rows["memory"].copy(),
                "reason": EVENT_NAMES[rows["kind"]],
            }
        )

    def span_rows(self) -> NDArray:
        """Return the spans of tokens, those still open included (:data:`SPAN`)."""
        open_now = np.flatnonzero(self.req["span_first"] >= 0)
        still = np.empty(open_now.size, SPAN)
        still["request"] = open_now
        still["first_batch"] = self.req["span_first"][open_now]
        still["last_batch"] = self.req["span_last"][open_now]
        still["first_token"] = self.req["span_token"][open_now]
        return np.concatenate([self.closed_spans, still])

    def spans(self) -> Records:
        """Return the spans of tokens: request, first and last step, tokens before them."""
        rows = self.span_rows()
        return Records({name: rows[name].copy() for name in rows.dtype.names or ()})

    def inter_token_latencies(self, first: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return latencies [time] between tokens, and how often each occurs, from row ``first``.

        They are of requests that finished. Tokens that a step brings together, verified drafts, are
        one, as a client sees them.
        """
        spans = self.span_rows()
        of = spans["request"]
        counts = (of >= first) & (self.req["status"][of] == Status.FINISHED)
        return _latencies(self._applied, spans[counts])

    def outputs(self) -> Outputs:
        """Return the chunks of every request of the table.

        A step that brings a request tokens brings one chunk, however many drafts were verified.
        """
        request, first, last, end = _emitting_steps(self._applied, self.span_rows())
        count, time = chunks(request, first, last, end, len(self.requests))
        return Outputs(count, time, self.req["generated"].copy())

    def totals(self) -> dict[str, float]:
        """Return the totals of :data:`serving.TOTALS` that the engine knows."""
        s, duration = self.scalars, self.time
        done = self.req["status"] == Status.FINISHED
        limits = kind_of(self.instance).limits(self.instance)
        blocks = limits["memory"].value / self.instance.block_size
        return {
            "duration": duration,
            "completed": float(s["finished"]),
            "output_tokens": float(self.req["generated"][done].sum()),
            "memory_utilization": _ratio(s["memory_time"], blocks * duration),
            "gpu_utilization": _ratio(s["busy"], duration),
            "evictions": float(s["evicted"]),
            "recompute_waste": float(self.req["recomputed"].sum()),
            **self._of_cache(),
            **self._of_client(),
        }

    def _of_client(self) -> dict[str, float]:
        """Return the totals that a client measures; peaks where it saw when outputs came."""
        done = self.req["status"] == Status.FINISHED
        prompts, answers = self.req["prompt"][done].sum(), self.req["generated"][done].sum()
        found = {
            "failed": float(self.scalars["arrived"] - self.scalars["finished"]),
            "total_input_tokens": float(prompts),
            "total_output_tokens": float(answers),
            "total_tokens": float(prompts + answers),
        }
        if self.rows.size and self.instance.time_unit in SECONDS:
            records = client_records(self, self.request_records())
            outputs, requests = bench_serve_peaks(records)
            found["max_output_tokens_per_s"] = float(outputs)
            found["max_concurrent_requests"] = float(requests)
        return found

    def _of_cache(self) -> dict[str, float]:
        """Return the totals of an engine with a prefix cache; none of another."""
        s, req = self.scalars, self.req
        if not getattr(self.instance, "enable_prefix_caching", False):
            return {}
        first, done = req["first_hits"], req["status"] == Status.FINISHED
        needed = req["prompt"] + req["generated"] - 1 - first
        so_far = np.maximum(req["computed"] - first, 0) * np.isfinite(req["first_sched"])
        useful = np.where(done, needed, np.where(req["status"] == Status.ABORTED, 0, so_far))
        return {
            "prefix_cache_queries": float(s["queried"]),
            "prefix_cache_hits": float(first.sum()),
            "prefix_cache_hit_rate": _ratio(first.sum(), s["queried"]),
            "saved_tokens": float(req["hit_tokens"].sum()),
            "evicted_blocks": float(s["evicted_blocks"]),
            "wasted_tokens": float(s["tokens_computed"] - useful.sum()),
        }

    def fragmentation(self) -> Mapping[str, float]:
        """Return the KV that is wasted: ``blocked`` is the time-mean share free while some wait."""
        blocks = kind_of(self.instance).limits(self.instance)["memory"].value
        whole = blocks / self.instance.block_size * self.time
        return {
            "blocked": _ratio(self.scalars["blocked_time"], whole),
            "recompute_waste": float(self.req["recomputed"].sum()),
        }

    def steps(self) -> tuple[NDArray[np.float64], dict[str, NDArray]]:
        """Return the starts of the batches and what holds from each on.

        A batch that an idle time follows, and the last one, have a boundary at their end too.
        """
        rows = self._applied[self._applied["size"] > 0]
        during = self._held(rows)
        left = np.append(0, rows["left"])
        during["completed"] = left[:-1]
        idle = rows["end"] != np.append(rows["start"][1:], np.nan)
        after = {name: np.zeros(int(idle.sum()), values.dtype) for name, values in during.items()}
        after["running"] = rows["running_after"][idle]
        after["swapped"] = rows["swapped_after"][idle]
        after["memory"] = rows["blocks_after"][idle] * self.instance.block_size
        after["completed"], after["evicted"] = rows["left"][idle], rows["evicted"][idle]
        time = np.concatenate([[0.0], rows["start"], rows["end"][idle]])
        rank = np.concatenate([[-1.0], np.arange(rows.size), np.flatnonzero(idle) + 0.5])
        order = np.argsort(rank, kind="stable")
        values = {name: np.concatenate([[0], during[name], after[name]])[order] for name in HELD}
        return time[order], values


def _emitting_steps(
    rows: NDArray, spans: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return spans as a request, its first and its last emitting step, each request's in order.

    Within a span every step that brought tokens to anyone brought some to its request. Only such
    steps are counted; the last array holds their ends [time].
    """
    brings = rows["emitting"] > 0
    number, end = np.cumsum(brings) - 1, rows["end"][brings]
    spans = spans[np.lexsort((spans["first_batch"], spans["request"]))]
    return spans["request"], number[spans["first_batch"]], number[spans["last_batch"]], end


def _latencies(rows: NDArray, spans: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the gaps between the ends of steps that brought tokens of a request.

    Within a span they are those between steps that brought tokens, as often as spans cover them.
    """
    request, first, last, end = _emitting_steps(rows, spans)
    members = np.zeros(end.size + 1, np.int64)
    np.add.at(members, first + 1, 1)
    np.add.at(members, last + 1, -1)
    weight = np.cumsum(members)[:-1]
    within = weight > 0
    gaps = np.diff(end, prepend=np.nan)[within]
    resumed = np.flatnonzero(request[1:] == request[:-1]) + 1
    between = end[first[resumed]] - end[last[resumed - 1]]
    return (
        np.concatenate([gaps, between]),
        np.concatenate([weight[within], np.ones(between.size, np.int64)]),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
