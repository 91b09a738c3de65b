"""A second kind of engine, for tests: one request at a time, each in a single batch.

It shows all that a kind has to bring: settings, an engine with its log, and a declaration. No fluid
model reads it, which its reading says in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from discrete import HELD, Progress, Records, Run, Stop
from serving import (
    BatchTimeLaw,
    Column,
    Event,
    Kind,
    KnobSpec,
    Limit,
    UnsupportedError,
    check_fits,
    setting,
)
from serving.setting import check_settings

REFUSAL = "no fluid model answers for the engine toy: it serves one request at a time"


@dataclass(frozen=True, slots=True)
class ToyNode:
    """Settings of the toy."""

    batch_time: BatchTimeLaw = field(default_factory=lambda: BatchTimeLaw(d_decode=0.0))
    time_unit: str = setting("none", "unit of every time", choices=("none", "s", "ms"))
    slots: int = setting(1000, "tokens that the one request may have", minimum=1)

    engine: ClassVar[str] = "toy"

    def __post_init__(self) -> None:
        check_settings(self)

    def scaled(self, n: int) -> ToyNode:
        return replace(self, batch_time=self.batch_time.scaled(n), slots=self.slots * n)


class ToyEngine:
    """Requests in order of arrival; ``ends`` holds the completions so far."""

    def __init__(
        self, requests, instance, *, seed, record_batches=True, record_events=False,
        sample_times=None,
    ):  # fmt: skip
        check_fits(requests, instance)
        self.requests, self.instance, self.seed = requests, instance, seed
        self.record_batches, self.record_events = record_batches, record_events
        self.grid = np.empty(0) if sample_times is None else np.asarray(sample_times, float)
        self.starts, self.ends = np.empty(0), np.empty(0)
        self.finished, self.waited = False, 0.0

    @property
    def batch(self):
        return self.ends.size

    @property
    def time(self):
        return max(self.waited, float(self.ends[-1]) if self.batch else 0.0)

    @property
    def progress(self):
        arrived = int((self.requests.arrival_time <= self.time).sum())
        return Progress(self.time, self.batch, self.batch, arrived, len(self.requests))

    def advance(self, *, until=None, batches=None, progress=None):
        last = len(self.requests) if batches is None else self.batch + batches
        starts, ends = self.starts.tolist(), self.ends.tolist()
        stop = Stop.FINISHED
        while len(ends) < len(self.requests):
            k = len(ends)
            if k >= last:
                stop = Stop.BATCHES
                break
            start = max(float(self.requests.arrival_time[k]), ends[-1] if ends else 0.0)
            if until is not None and start >= until:
                stop, self.waited = Stop.UNTIL, float(until)
                break
            tokens = self.requests.prefill_length[k] + self.requests.decode_length[k]
            starts.append(start)
            ends.append(start + float(self.instance.batch_time.duration(tokens, 1)))
        self.starts, self.ends = np.array(starts), np.array(ends)
        self.finished = stop == Stop.FINISHED
        if progress is not None:
            progress(self.progress)
        return stop

    def inject(self, requests, *, at=None, replace=True):
        raise UnsupportedError("the engine toy takes no other requests once it runs")

    def hold_back(self):
        raise UnsupportedError("the engine toy takes no requests one at a time")

    def send(self, row, time):
        raise UnsupportedError("the engine toy takes no requests one at a time")

    @property
    def sent_rows(self):
        return np.empty(0, np.int64)

    def arrays(self):
        return {"starts": self.starts, "ends": self.ends, "grid": self.grid}

    def restore(self, arrays):
        self.starts, self.ends = arrays["starts"], arrays["ends"]

    def run(self):
        return Run(
            ToyLog(self), seed=self.seed, record_batches=self.record_batches,
            record_events=self.record_events,
        )  # fmt: skip


class ToyLog:
    """What the toy did, in the words of every engine."""

    def __init__(self, engine):
        self.requests, self.instance = engine.requests, engine.instance
        self.finished, self.time, self.grid = engine.finished, engine.time, engine.grid
        self.num_batches, self.num_arrived = engine.batch, engine.progress.arrived
        self.starts, self.ends = engine.starts, engine.ends
        self.tokens = (self.requests.prefill_length + self.requests.decode_length)[
            : self.num_batches
        ]

    def steps(self):
        time = np.concatenate([[0.0], np.column_stack([self.starts, self.ends]).ravel()])
        on = np.concatenate([[0], np.tile([1, 0], self.num_batches)])
        tokens = np.concatenate([[0], np.column_stack([self.tokens, 0 * self.tokens]).ravel()])
        lasted = self.ends - self.starts
        duration = np.concatenate([[0], np.column_stack([lasted, 0 * lasted]).ravel()])
        done = np.concatenate([[0], np.repeat(np.arange(self.num_batches + 1), 2)[1:-1]])
        held = {
            "running": on, "swapped": 0 * on, "completed": done, "evicted": 0 * on,
            "memory": tokens, "batch_size": on, "batch_tokens": tokens,
            "batch_duration": duration,
        }  # fmt: skip
        return time, {name: held[name] for name in HELD}

    def sampled(self):
        time, held = self.steps()
        k = np.searchsorted(time, self.grid, side="right") - 1
        return {name: values[k] for name, values in held.items()}

    def request_records(self):
        def until_now(values):
            return np.append(values, np.full(len(self.requests) - self.num_batches, np.nan))

        start, end, zero = (
            until_now(self.starts),
            until_now(self.ends),
            np.zeros(len(self.requests)),
        )
        return Records(
            {
                "req_id": np.arange(len(self.requests)),
                "arrival_time": self.requests.arrival_time,
                "prefill_length": self.requests.prefill_length,
                "decode_length": self.requests.decode_length,
                "completion_time": end,
                "first_enter_running_time": start,
                "first_token_time": end,
                "waiting_time": start - self.requests.arrival_time,
                "execution_time": end - start,
                "swapped_time": zero,
                "swap_count": zero.astype(int),
                "sacrifice_count": zero.astype(int),
                "total_delay": end - self.requests.arrival_time,
            }
        )

    def batch_records(self):
        return Records(
            {
                "time": self.ends,
                "batch_id": np.arange(self.num_batches),
                "batch_tokens": self.tokens,
                "batch_duration": self.ends - self.starts,
                "waiting_count": np.searchsorted(self.requests.arrival_time, self.ends, "right")
                - np.arange(1, self.num_batches + 1),
                "completed_count": np.arange(1, self.num_batches + 1),
                "memory_used": 0 * self.tokens,
            },
            tuple(column.name for column in TOY.snapshot),
        )

    def event_records(self):
        return Records(
            {
                "time": np.column_stack([self.starts, self.ends]).ravel(),
                "event_type": np.tile(["start", "complete"], self.num_batches),
                "req_id": np.repeat(np.arange(self.num_batches), 2),
                "details": np.full(2 * self.num_batches, ""),
            }
        )

    def memory_event_records(self):
        return self.event_records()

    def spans(self):
        k = np.arange(self.num_batches)
        return Records({"request": k, "first_batch": k, "last_batch": k, "first_token": 0 * k})

    def inter_token_latencies(self, first):
        return np.empty(0), np.empty(0)

    def totals(self):
        return {
            "duration": self.time,
            "completed": float(self.num_batches),
            "output_tokens": float(self.requests.decode_length[: self.num_batches].sum()),
        }

    def fragmentation(self):
        return {}


def _refused(node):
    raise UnsupportedError(REFUSAL)


TOY = Kind(
    name="toy",
    title="one request at a time, each in a single batch",
    settings=ToyNode,
    engine="toy_engine:ToyEngine",
    law_keys=("d_0", "d_kv"),
    line=lambda node: f"toy with {node.slots:,} slots",
    largest_request=lambda node: Limit(node.slots, f"slots = {node.slots}"),
    limits=lambda node: {"memory": Limit(float(node.slots), "slots")},
    reading=_refused,
    kv_keys=lambda tokens, given: {"slots": tokens},
    snapshot=(
        Column("time", "time", "end of the batch"),
        Column("batch_id", "", "number of the batch"),
        Column("batch_tokens", "tokens", "tokens of the request", "batch_tokens"),
        Column("batch_duration", "time", "duration of the batch", "batch_duration"),
        Column("waiting_count", "requests", "requests that wait", "waiting"),
        Column("completed_count", "requests", "completions so far", "completed"),
        Column("memory_used", "tokens", "tokens in use", "memory"),
    ),
    events=(Event("start", "running"), Event("complete", None)),
    knobs=(
        KnobSpec(
            "slots", "smallest number of slots [tokens]", "smaller", "log",
            lambda mix, node: (float((mix.prefill + mix.decode).max()), 4.0 * node.slots),
            lambda mix, node: (1.0, 2.0**53), integer=True,
        ),
    ),
)  # fmt: skip
