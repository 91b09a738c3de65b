"""The clock that a real scheduler is driven by: who arrives when, how long a step takes.

vLLM's engine process does the same with a device behind it. A step is scheduled, runs for the time
that the batch-time law gives it, and its output is applied when it ends; up to
``case.steps_in_flight`` steps may be scheduled before the oldest one's output is back.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from case import Case, Request

PATIENCE = 3
"""Empty steps in a row, per step in flight, before the clock moves on to what happens next."""


@dataclass
class Record:
    """What becomes of one request."""

    number: int
    request: Request
    first_sched: float | None = None
    first_token: float | None = None
    done: float | None = None
    n_preempt: int = 0
    n_swap_in: int = 0
    recomputed: int = 0
    hit_tokens: int = 0
    accepted: int = 0
    status: str = "pending"

    def row(self) -> dict[str, Any]:
        """Return the request's row of the request log."""
        asked = vars(self.request)
        return {**asked, **vars(self), "rid": self.number}


@dataclass
class Step:
    """One call of schedule(): its row, and what the scheduler needs to apply its output."""

    row: dict[str, Any]
    payload: Any
    free_tokens: int = 0
    loading: bool = False

    @property
    def works(self) -> bool:
        """Whether the step computes or moves anything."""
        return bool(self.row["tokens"] or self.row["n_blk_in"] or self.row["n_blk_out"])

    @property
    def is_idle(self) -> bool:
        """Whether the step changed nothing at all."""
        return not (self.works or self.row["ignored"] or self.row["preempted"] or self.loading)


class Scheduler(Protocol):
    """What the clock asks of a real scheduler."""

    def add(self, record: Record) -> None: ...
    def abort(self, record: Record) -> bool: ...
    def has_work(self) -> bool: ...
    def schedule(self) -> None: ...
    def describe(self, now: float) -> Step: ...
    def apply(self, step: Step, now: float) -> list[int]: ...


@dataclass
class Outcome:
    """How a case ended, and everything that was decided until then."""

    records: list[Record]
    rows: list[dict[str, Any]] = field(default_factory=list)
    applied: int = 0
    status: str = "finished"
    message: str = ""


class _EndedError(Exception):
    """The run is over before every request is; the argument is the status."""


class Clock:
    """Drive one scheduler through one case."""

    def __init__(self, case: Case, scheduler: Scheduler) -> None:
        self.case, self.scheduler = case, scheduler
        self.outcome = Outcome([Record(n, r) for n, r in enumerate(case.requests)])
        self.arrivals = deque(self.outcome.records)
        given_up = [r for r in self.outcome.records if r.request.abort is not None]
        self.aborts = deque(sorted(given_up, key=lambda r: (r.request.abort, r.number)))
        self.aborted: list[int] = []
        self.now = 0.0

    def run(self) -> Outcome:
        """Run to the end, whichever it is."""
        try:
            self._run()
        except _EndedError as ended:
            self.outcome.status = str(ended)
        except Exception as error:
            self.outcome.status = f"raised:{type(error).__name__}"
            self.outcome.message = str(error)
        return self.outcome

    def _run(self) -> None:
        flying: deque[Step] = deque()
        most, device_free, idle = self.case.steps_in_flight, 0.0, 0
        stages = self.case.get("pipeline_parallel_size")
        while True:
            self._let_in()
            if not self.scheduler.has_work() and not flying:
                if not self.arrivals:
                    return
                self.now = self.arrivals[0].request.arrival
                continue
            if self.scheduler.has_work():
                step = self._scheduled()
                duration = step.row["dur"]
                gap = self.case.get("cpu_gap") if duration else 0.0
                device_free = max(self.now + gap + duration, device_free + duration / stages)
                step.row.update(t_start=device_free - duration, t_end=device_free)
                flying.append(step)
                idle = idle + 1 if step.is_idle else 0
                more = step.row["tokens"] or self.scheduler.has_work()
                if len(flying) < most and more:
                    continue
            self._apply(flying.popleft())
            if idle > PATIENCE * most and not any(s.row["tokens"] for s in flying):
                self._wait()
                idle = 0
            if len(self.outcome.rows) >= self.case.most_steps:
                raise _EndedError("max_iters")

    def _let_in(self) -> None:
        """First who has arrived, then who has given up."""
        while self.arrivals and self.arrivals[0].request.arrival <= self.now:
            self.scheduler.add(self.arrivals.popleft())
        self._give_up()

    def _give_up(self) -> None:
        while self.aborts and self.aborts[0].request.abort <= self.now:
            record = self.aborts.popleft()
            if self.scheduler.abort(record):
                record.done, record.status = self.now, "aborted"
                self.aborted.append(record.number)

    def _scheduled(self) -> Step:
        before = time.thread_time()
        self.scheduler.schedule()
        spent = time.thread_time() - before
        step = self.scheduler.describe(self.now)
        step.row.update(
            it=len(self.outcome.rows),
            t_sched=self.now,
            dur=self._duration(step),
            sched_us=round(spent * 1e6, 1),
            finished=[],
            aborted=[],
        )
        self.outcome.rows.append(step.row)
        return step

    def _duration(self, step: Step) -> float:
        """The batch-time law; what is fetched from another node's memory costs nothing."""
        row, law = step.row, self.case.batch_time
        moved = row["n_blk_in"] + row["n_blk_out"]
        all_fetched = self.case.get("remote_prefill") and row["tokens"] == step.free_tokens
        if not step.works or (all_fetched and not moved):
            return 0.0
        return (
            law["d_0"]
            + law["d_prefill"] * (row["prefill_tokens"] - step.free_tokens)
            + law["d_decode"] * row["decode_tokens"]
            + law["d_kv"] * row["context"]
            + law["d_swap"] * moved
        )

    def _apply(self, step: Step) -> None:
        """The step has ended: first who gave up meanwhile, then its output."""
        self.now = max(self.now, step.row["t_end"])
        self._give_up()
        step.row["aborted"], self.aborted = self.aborted, []
        step.row["finished"] = self.scheduler.apply(step, self.now)
        self.outcome.applied += 1

    def _wait(self) -> None:
        """Nothing can be scheduled: only an arrival or an abort can change that."""
        coming = [self.arrivals[0].request.arrival] if self.arrivals else []
        coming += [self.aborts[0].request.abort] if self.aborts else []
        if not coming:
            raise _EndedError("stuck")
        self.now = max(self.now, min(coming))
