"""The decode node in plain Python, read off the semantics line by line: slow and obvious.

Queues are deques and lists of objects, memory and counts are running sums; every batch touches
every request that executes. Nothing here knows how the compiled engine works.
"""

from __future__ import annotations

from collections import deque

import numpy as np

NAN = float("nan")


def interpolated(table, n):
    """Return the time that a law's table gives ``n`` requests."""
    if n <= table[0][0] or len(table) == 1:
        return table[0][1]
    # the last row that is not beyond n; the last two rows say how it goes on
    i = min(sum(row[0] <= n for row in table), len(table) - 1) - 1
    (x, time), (later, longer) = table[i], table[i + 1]
    return (longer - time) / (later - x) * (n - x) + time


class Request:
    def __init__(self, req_id, arrival, p, D, priority, length):
        self.req_id, self.arrival, self.p, self.D = req_id, arrival, p, D
        self.priority, self.length = priority, length
        self.k = 0
        self.furthest = 0
        self.last_executed = -1
        self.enter = self.first_token = self.completion = NAN
        self.state, self.since = None, NAN
        self.time_in = {"waiting": 0.0, "running": 0.0, "swapped": 0.0}
        self.swaps = self.sacrifices = 0
        self.token_times = []

    def move_to(self, state, t):
        """Leave the present state at t, for another or for good."""
        if self.state is not None:
            self.time_in[self.state] += t - self.since
        self.state, self.since = state, t


class DecodeNodeReference:
    """Run it with :meth:`run`; the results are plain lists.

    ``rows``: a tuple per batch (BATCH_COLUMNS); ``events``: (time, type, req_id, details);
    ``memory_events``: (time, type, req_id, before, after, reason).
    """

    BATCH_COLUMNS = (
        "time",
        "batch_id",
        "batch_size",
        "batch_tokens",
        "batch_duration",
        "waiting_count",
        "running_count",
        "swapped_count",
        "completed_count",
        "gpu_memory_used",
        "start_time",
        "running_during",
        "memory_during",
        "evicted_count",
    )

    def __init__(
        self,
        table,
        node,
        *,
        seed=42,
        queue_key=None,
        victim_key=None,
        record_batches=True,
        record_events=True,
        record_tokens=True,
        check=True,
    ):
        lengths = (
            table.predicted_decode_length
            if node.length_source == "predicted"
            else table.decode_length
        )
        columns = (table.arrival_time, table.prefill_length, table.decode_length)
        columns += (table.priority, lengths)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self.requests = [Request(i, *row) for i, row in enumerate(rows)]
        self.node = node
        self.queue_key, self.victim_key = queue_key, victim_key
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.record_batches, self.record_events = record_batches, record_events
        self.record_tokens, self.check = record_tokens, check
        self.future = deque(self.requests)
        self.waiting, self.swapped, self.running = deque(), deque(), []
        self.t, self.used, self.moved = 0.0, 0, 0
        self.batch, self.completed, self.evicted, self.wasted = 0, 0, 0, 0
        self.busy = self.memory_time = self.blocked_time = 0.0
        self.rows, self.events, self.memory_events = [], [], []

    @property
    def finished(self):
        return not (self.future or self.waiting or self.swapped or self.running)

    def run(self, most_batches=None):
        while not self.finished and self.batch != most_batches:
            self.boundary()
        self.events.sort(key=lambda event: event[0])
        self.memory_events.sort(key=lambda event: event[0])
        return self

    def boundary(self):
        """Decide at time t, execute one batch; then it is the next boundary (steps 1 and 2)."""
        if not (self.running or self.waiting or self.swapped):
            self.t = self.future[0].arrival
            self.join_arrivals()
        if not self.relieve_memory():
            self.swap_in()
            if not self.swapped:
                self.admit()
        self.execute()

    def join_arrivals(self):
        while self.future and self.future[0].arrival <= self.t:
            r = self.future.popleft()
            r.move_to("waiting", r.arrival)
            self.waiting.append(r)
            self.note(r, "arrive", r.arrival)

    def relieve_memory(self):
        victims = []
        while self.used + len(self.running) > self.node.M_total and len(self.running) > 1:
            r = self.running[self.victim()]
            victims.append((self.running.index(r), r))
            if self.node.mode == "swapping":
                self.note(r, "swap_out", self.t)
                r.swaps += 1
                r.move_to("swapped", self.t)
                self.moved += r.p + r.k
                self.swapped.append(r)
            else:
                self.note(r, "sacrifice", self.t)
                r.sacrifices += 1
                r.move_to("waiting", self.t)
                self.wasted += r.k
            self.used -= r.p + r.k
            self.running.remove(r)
        self.evicted += len(victims)
        if self.node.mode == "sacrifice":
            self.restore_order(victims)
        return bool(victims)

    def restore_order(self, victims):
        """Send victims to the head of WAITING in the order that they had in RUNNING."""
        order = []
        for index, r in reversed(victims):
            # undo the removals, last first: each index was valid when its victim left
            order = [(i + (i >= index), other) for i, other in order]
            order.append((index, r))
        for _, r in sorted(order, key=lambda pair: pair[0], reverse=True):
            r.k = 0
            self.waiting.appendleft(r)

    def victim(self):
        """Return the index in RUNNING of who is evicted next."""
        policy, n = self.node.victim_policy, len(self.running)
        if policy == "LIFO":
            return n - 1
        if policy == "FIFO":
            return 0
        if policy == "random":
            return int(self.rng.integers(n))
        if policy == "LRU":
            keys = [r.last_executed for r in self.running]
        else:
            keys = [self.user_number(self.victim_key, r) for r in self.running]
        return n - 1 - keys[::-1].index(min(keys))

    def user_number(self, function, r):
        idle = -1 if r.last_executed < 0 else self.batch - 1 - r.last_executed
        evictions = r.swaps + r.sacrifices
        key = function(self.t, r.arrival, r.priority, r.p, r.length, r.k, evictions, idle)
        return float("inf") if key != key else float(key)

    def fits(self, r):
        node = self.node
        enough = self.used + len(self.running) + r.p + r.k + 1 <= node.M_total
        return enough and self.used < node.admission_threshold * node.M_total

    def enter(self, r):
        r.move_to("running", self.t)
        self.used += r.p + r.k
        self.running.append(r)

    def swap_in(self):
        while self.swapped and self.fits(self.swapped[0]):
            r = self.swapped.popleft()
            self.note(r, "swap_in", self.t)
            self.moved += r.p + r.k
            self.enter(r)

    def admit(self):
        policy = self.node.queue_policy
        if policy == "FCFS":
            while self.waiting and self.fits(self.waiting[0]):
                self.admit_one(self.waiting.popleft())
            return
        if policy == "priority":
            order = sorted(self.waiting, key=lambda r: r.priority)
        elif policy == "SJF":
            order = sorted(self.waiting, key=lambda r: r.length)
        else:
            order = sorted(self.waiting, key=lambda r: self.user_number(self.queue_key, r))
        for r in order:
            if not self.fits(r):
                return
            self.waiting.remove(r)
            self.admit_one(r)

    def admit_one(self, r):
        self.note(r, "admit", self.t)
        if r.enter != r.enter:
            r.enter = self.t
        self.enter(r)

    def execute(self):
        node = self.node
        members, tokens = [], 0
        for r in self.running:
            cost = r.p + r.k + 1
            if members and node.B is not None and tokens + cost > node.B:
                break
            members.append(r)
            tokens += cost
        if self.check:
            assert self.used == sum(r.p + r.k for r in self.running)
            assert self.used + len(self.running) <= node.M_total or len(self.running) == 1
        size, running, used = len(members), len(self.running), self.used
        law = node.batch_time
        extra = (law.d_decode - law.d_kv) * size
        if law.d_decode_table is not None:
            extra += interpolated(law.d_decode_table, size)
        duration = law.d_0 + law.d_kv * tokens + extra + law.d_swap * self.moved
        self.moved = 0
        self.busy += duration
        self.memory_time += duration * used
        if self.waiting or self.swapped:
            self.blocked_time += duration * (node.M_total - used)
        start, self.t = self.t, self.t + duration
        self.used += size
        finished = False
        for r in members:
            r.k += 1
            r.last_executed = self.batch
            if r.k > r.furthest:
                r.furthest = r.k
                if r.k == 1:
                    r.first_token = self.t
                if self.record_tokens:
                    r.token_times.append(self.t)
            if r.k == r.D:
                finished = True
        self.batch += 1
        if finished:
            self.complete(members)
        self.join_arrivals()
        if self.record_batches:
            self.rows.append(
                (
                    self.t,
                    self.batch - 1,
                    size,
                    tokens,
                    duration,
                    len(self.waiting),
                    len(self.running),
                    len(self.swapped),
                    self.completed,
                    self.used,
                    start,
                    running,
                    used,
                    self.evicted,
                )
            )

    def complete(self, members):
        for r in members:
            if r.k == r.D:
                self.note(r, "complete", self.t)
                r.move_to(None, self.t)
                r.completion = self.t
                self.used -= r.p + r.D
                self.completed += 1
        self.running = [r for r in self.running if r.k < r.D]

    def note(self, r, kind, time):
        if not self.record_events:
            return
        self.events.append((time, kind, r.req_id, "" if kind == "arrive" else f"decoded={r.k}"))
        if kind in ("admit", "swap_in"):
            after = self.used + r.p + r.k
            self.memory_events.append((time, "allocate", r.req_id, self.used, after, kind))
        elif kind != "arrive":
            after = self.used - r.p - r.k
            self.memory_events.append((time, "free", r.req_id, self.used, after, kind))

    def time_in(self, state, r):
        """Return all time of a request in a state, up to now if it is still there."""
        return r.time_in[state] + (self.t - r.since if r.state == state else 0.0)

    def request_columns(self):
        """Return the columns of the request file."""
        rs = self.requests
        waited = [self.time_in("waiting", r) for r in rs]
        ran = [self.time_in("running", r) for r in rs]
        out = [self.time_in("swapped", r) for r in rs]
        return {
            "req_id": [r.req_id for r in rs],
            "arrival_time": [r.arrival for r in rs],
            "prefill_length": [r.p for r in rs],
            "decode_length": [r.D for r in rs],
            "completion_time": [r.completion for r in rs],
            "first_enter_running_time": [r.enter for r in rs],
            "first_token_time": [r.first_token for r in rs],
            "waiting_time": waited,
            "execution_time": ran,
            "swapped_time": out,
            "swap_count": [r.swaps for r in rs],
            "sacrifice_count": [r.sacrifices for r in rs],
            "total_delay": [w + e + s for w, e, s in zip(waited, ran, out, strict=True)],
        }
