"""The V0 scheduler of vLLM 0.6.3 and 0.5.4 in plain Python: lists of requests, counts of blocks.

Slow and obvious; nothing here knows how the compiled engine works. A row has the columns that the
decision log has, as numbers and lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


class Exhausted(Exception):
    """The CPU has no room for a victim: the real engine dies in the middle of schedule()."""


@dataclass
class Settings:
    block_size: int = 16
    num_gpu_blocks: int = 1000
    num_cpu_blocks: int = 1000
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 4096
    max_model_len: int = 2**20
    chunked: bool = False
    swap: bool = False
    watermark: float = 0.01
    remote_prefill: bool = False
    free_recompute: bool = False
    old: bool = False  # 0.5.4 with its first block manager
    d0: float = 1.0
    d1: float = 0.0
    d2: float = 0.0
    dsw: float = 0.0


class Request:
    def __init__(self, rid, arrival, prompt, output):
        self.rid, self.arrival, self.prompt, self.output = rid, arrival, prompt, output
        self.first_sched = self.first_token = self.done = None
        self.n_preempt = self.n_swap_in = self.recomputed = 0
        self.status = "pending"
        self.length = prompt  # of prompt and answer so far
        self.computed = self.blocks = 0
        self.decoding = False

    @property
    def slots(self):
        """Tokens that have a place in its blocks."""
        return self.length - 1 if self.decoding else self.length


class Scheduler:
    def __init__(self, settings):
        self.c = settings
        self.free, self.cpu_free = settings.num_gpu_blocks, settings.num_cpu_blocks
        self.watermark = int(settings.watermark * settings.num_gpu_blocks)
        self.waiting, self.running, self.swapped = [], [], []

    # memory

    def whole(self, r):
        return ceil(r.length / self.c.block_size)

    def touched(self, r):
        """Blocks that must be free before r may go on."""
        return 1 if self.c.old or r.decoding or r.slots % self.c.block_size else 0

    def moved(self, r, back):
        """Blocks that must be free where r is moved to."""
        if self.c.old:
            return r.blocks + (1 if back else 0)
        return self.touched(r) + r.slots // self.c.block_size

    def append(self, r):
        if r.decoding and r.slots % self.c.block_size == 0:
            r.blocks += 1
            self.free -= 1

    # who computes how much, under what is left of the budget

    def left(self):
        return self.c.max_num_batched_tokens - self.tokens

    def take(self, r, n, where):
        where.append((r, n))
        self.tokens += n

    def schedule(self):
        self.tokens = 0
        self.victims, self.out, self.back, self.ignored, self.lost = [], [], [], [], []
        self.moved_out = self.moved_in = 0
        decodes, chunks, back_decodes, back_chunks, new = [], [], [], [], []
        if self.c.chunked:
            self.seqs = 0
            self.go_on(decodes, chunks)
            if not self.victims and not self.out:
                self.swap_in(back_decodes, back_chunks)
            self.prefill(new)
        else:
            self.seqs = len(self.running)
            if not self.swapped:
                self.prefill(new)
            if not new:
                self.go_on(decodes, chunks)
                if not self.victims and not self.out:
                    self.swap_in(back_decodes, back_chunks)
        self.waiting = self.victims[::-1] + self.waiting
        self.swapped += self.out
        self.ignored += self.lost
        if not self.c.chunked:
            order = (new, decodes, back_decodes)
        elif self.c.old:
            order = (new, decodes, chunks, back_decodes, back_chunks)
        else:
            order = (back_decodes, back_chunks, decodes, chunks, new)
        self.running += [r for part in order for r, _ in part]
        return new + chunks + back_chunks + decodes + back_decodes

    def go_on(self, decodes, chunks):
        while self.running:
            r = self.running[0]
            n = 1 if r.decoding else r.length - r.computed
            if self.c.chunked:
                n = min(n, self.left())
            if n == 0:
                return
            del self.running[0]
            while self.touched(r) > self.free:
                victim = self.running.pop() if self.running else r
                self.preempt(victim)
                if victim is r:
                    return
            self.append(r)
            self.take(r, n, decodes if r.decoding else chunks)
            self.seqs += self.c.chunked

    def preempt(self, r):
        r.n_preempt += 1
        if self.c.swap:
            if self.moved(r, False) > self.cpu_free:
                raise Exhausted
            self.free += r.blocks
            self.cpu_free -= r.blocks
            self.moved_out += r.blocks
            self.out.append(r)
        else:
            self.free += r.blocks
            r.blocks = r.computed = 0
            r.decoding = False
            self.victims.append(r)

    def swap_in(self, decodes, chunks):
        while self.swapped:
            r = self.swapped[0]
            need = self.moved(r, True)
            if need > self.c.num_gpu_blocks:
                self.lost.append(self.swapped.pop(0))  # and its blocks on the CPU
                continue
            n = 1 if r.decoding else r.length - r.computed
            full = n > self.left() or self.seqs == self.c.max_num_seqs
            if self.free - need < self.watermark or full:
                return
            self.back.append(self.swapped.pop(0))
            r.n_swap_in += 1
            self.free -= r.blocks
            self.cpu_free += r.blocks
            self.moved_in += r.blocks
            self.append(r)
            self.take(r, n, decodes if r.decoding else chunks)
            self.seqs += 1

    def prefill(self, new):
        limit = self.c.max_model_len
        if not self.c.chunked:
            limit = min(limit, self.c.max_num_batched_tokens)
        while self.waiting:
            r = self.waiting[0]
            n = min(r.length, self.left()) if self.c.chunked else r.length
            need = self.whole(r)
            if n > limit or self.c.num_gpu_blocks - need < self.watermark:
                self.ignored.append(self.waiting.pop(0))
                continue
            if self.free - need < self.watermark:
                return
            if n == 0 or n > self.left() or self.seqs == self.c.max_num_seqs:
                return
            del self.waiting[0]
            r.blocks = need
            self.free -= need
            self.take(r, n, new)
            self.seqs += 1

    def apply(self, batch, end):
        """Give a token to everyone whose KV is complete, let the finished go."""
        finished = []
        for r, n in batch:
            r.computed += n
            if r.computed < r.length:
                continue
            r.decoding = True
            r.length += 1
            if r.first_token is None:
                r.first_token = end
            if r.length - r.prompt == r.output or r.length > self.c.max_model_len:
                r.done, r.status = end, "finished"
                finished.append(r.rid)
                self.free += r.blocks
                self.running.remove(r)
        return finished


def simulate(requests, settings, *, most=2_000_000):
    """Run requests, sorted by arrival; return the rows and how it ended.

    The end is ``finished``, ``stuck``, ``swap_space_exhausted`` or, after ``most`` rows,
    ``max_iters``.
    """
    c, node = settings, Scheduler(settings)
    rows, t, arrived, idle = [], 0.0, 0, 0
    while True:
        while arrived < len(requests) and requests[arrived].arrival <= t:
            node.waiting.append(requests[arrived])
            arrived += 1
        if not (node.waiting or node.running or node.swapped):
            if arrived == len(requests):
                return rows, "finished"
            t = requests[arrived].arrival
            continue
        try:
            batch = node.schedule()
        except Exhausted:
            return rows, "swap_space_exhausted"
        prefills = [(r, n) for r, n in batch if not r.decoding]
        for r in node.back + [r for r, _ in batch]:
            assert r.blocks * c.block_size >= r.slots
        for r, _ in batch:
            r.first_sched = t if r.first_sched is None else r.first_sched
        spared = 0
        for r, n in prefills:
            r.recomputed += n if r.n_preempt else 0
            if c.remote_prefill and (r.n_preempt == 0 or c.free_recompute):
                spared += n
        for r in node.ignored:
            r.status, r.done = "ignored", t
        tokens = sum(n for _, n in batch)
        context = sum(r.computed + n for r, n in batch)
        blocks = node.moved_in + node.moved_out
        duration = 0.0
        if blocks or (tokens and not (c.remote_prefill and tokens == spared)):
            duration = c.d0 + c.d1 * (tokens - spared) + c.d2 * context + c.dsw * blocks
        end = t + duration
        prefill_tokens = sum(n for _, n in prefills)
        row = {
            "it": len(rows),
            "t_start": t,
            "dur": duration,
            "t_end": end,
            "waiting": len(node.waiting),
            "running": len(node.running),
            "swapped": len(node.swapped),
            "n_sched": len(batch),
            "n_prefill_seqs": len(prefills),
            "prefill_tokens": prefill_tokens,
            "decode_tokens": tokens - prefill_tokens,
            "tokens": tokens,
            "context": context,
            "blocks_used": c.num_gpu_blocks - node.free,
            "cpu_blocks_used": c.num_cpu_blocks - node.cpu_free,
            "preempted": [r.rid for r in node.victims],
            "swapped_out": [r.rid for r in node.out],
            "swapped_in": [r.rid for r in node.back],
            "n_blk_out": node.moved_out,
            "n_blk_in": node.moved_in,
            "sched_ids": [f"{r.rid}:{n}" for r, n in batch],
            "ignored": [r.rid for r in node.ignored],
            "q_waiting": [r.rid for r in node.waiting],
            "q_running": [r.rid for r in node.running],
            "q_swapped": [r.rid for r in node.swapped],
        }
        row["finished"] = node.apply(batch, end)
        rows.append(row)
        t = end
        nothing = not (tokens or blocks or node.ignored or node.victims)
        idle = idle + 1 if nothing else 0
        if idle > 3:
            if arrived == len(requests):
                return rows, "stuck"
            t, idle = max(t, requests[arrived].arrival), 0
        if len(rows) > most:
            return rows, "max_iters"
