"""A plain reading of the fluid rules of a server that computes its own prompts.

Cohorts are Python lists, one after the other in order of entry, every request of a mix by itself;
nothing is summed in advance. It is slow and short on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fluid.prompt_server import life
from fluid.prompt_server.lumps import relative_tokens, within


@dataclass
class Cohort:
    """Requests that entered together; ``mass`` of each atom of the mix that is still there."""

    atom: np.ndarray
    tokens: int
    entry: int
    stopped: float = 0.0
    ahead: float = 0.0


@dataclass
class ServerMarch:
    """State of the march, and one row (start, duration, running, memory, completed) per step."""

    mix: object
    node: object
    arrived: object  # function of time
    horizon: float
    running: list = field(default_factory=list)
    queue: list = field(default_factory=list)  # the preempted, the next one last
    rows: list = field(default_factory=list)
    evicted: float = 0.0
    wasted: float = 0.0

    def run(self, steps):
        """Make so many steps."""
        now = free = 0.0
        admitted = taken = 0.0
        for step in range(steps):
            taken, admitted, now, free = self._step(step, now, free, admitted, taken)
        return np.array(self.rows)

    def _there(self, cohort, late):
        """Return the mass of each atom that the scheduler counts."""
        last = self.mix.decode + late
        return np.where(cohort.tokens < last, cohort.atom, 0.0)

    def _computes(self, cohort):
        known = self.node.is_ahead and not self.node.ends_unknown
        return self._there(cohort, 0 if known or not self.node.is_ahead else 1)

    def _held(self, cohort):
        """Return the KV of a cohort in this step, in whole blocks."""
        size = self.node.block_size
        tokens = np.ceil(self.mix.prefill) + cohort.tokens
        if self.node.is_ahead and not self.node.ends_unknown:
            tokens = np.minimum(tokens, np.ceil(self.mix.prefill) + self.mix.decode - 1)
        return float(self._there(cohort, int(self.node.is_ahead)) @ np.ceil(tokens / size)) * size

    def _step(self, step, now, free, admitted, taken):
        node, mix, late = self.node, self.mix, int(self.node.is_ahead)
        blocks = sum(self._held(each) for each in self.running)
        alive = sum(self._there(each, 0).sum() for each in self.running)
        completed = admitted - alive - sum(self._there(each, 0).sum() for each in self.queue)
        prompt = np.zeros(4)  # tokens, attention, known, context
        new, started, fresh_blocks = [], 0.0, 0.0
        if blocks > node.kv_tokens * (1 + 1e-9):
            blocks = self._preempt(step, blocks, taken)
        else:
            decodes = sum(self._computes(each).sum() for each in self.running)
            seats = node.most_running - sum(self._there(each, late).sum() for each in self.running)
            left, room = node.step_tokens - decodes, node.kv_tokens - node.reserve - blocks
            while self.queue:
                share, used = self._again(left, seats, room, taken)
                tokens, known, kv, held, mass = used
                if share * mass > 1e-9:
                    each = self.queue[-1]
                    new.append(Cohort(share * self._there(each, 0), each.tokens, step))
                    pairs = tokens * (known + 0.5 * (tokens + mass)) / mass
                    prompt += share * np.array([tokens, pairs, known, kv])
                    left, seats = left - share * tokens, seats - share * mass
                    room, started = room - share * held, started + share * mass
                    fresh_blocks += share * (held - known)
                    blocks += share * held
                    self.wasted += share * tokens
                    each.atom = each.atom * (1 - share)
                if share < 1:
                    break
                self.queue.pop()
            if not self.queue:
                share = np.array(node.hit_share * len(mix.prefill))[: len(mix.prefill)]
                known = share * mix.prefill
                own = mix.prefill - known
                held = np.ceil(mix.prefill / node.block_size) * node.block_size
                each = (
                    mix.probability
                    @ np.array([own, own * (known + (own + 1) / 2), known, mix.prefill, held]).T
                )
                fresh = min(self.arrived(min(now, self.horizon)) - admitted, seats)
                fresh = max(0.0, min(fresh, left / each[0], room / each[4]))
                new.append(Cohort(fresh * mix.probability, 0, step))
                prompt += fresh * each[:4]
                admitted, started = admitted + fresh, started + fresh
                fresh_blocks += fresh * each[4]
                blocks += fresh * each[4]
        decodes = sum(self._computes(each).sum() for each in self.running)
        context = sum(
            float(self._computes(each) @ (mix.prefill + each.tokens)) for each in self.running
        )
        seated = sum(self._there(each, late).sum() for each in self.running) + started
        some, law = -math.expm1(-started), node.batch_time
        left = max(node.step_tokens - decodes, 1.0)
        scatter = life(mix, node).scatter
        if scatter is not None:
            some = max(some, min(prompt[0] / left, 1.0))
        mean = prompt / max(some, 1e-300)
        duration = (1 - some) * float(law.step_duration(decodes, context))
        parts = np.ones(1)
        if scatter is not None and prompt[0] > 0:
            parts = within(relative_tokens(scatter, np.array(started)), np.array(left / mean[0]))
        if some > 0:
            duration += some * np.mean([
                law.step_duration(decodes, context + part * mean[3], *(part * mean[:3]))
                for part in parts
            ])  # fmt: skip
        start = max(free, now)
        duration += max(0.0, now + node.gap - start)
        self.rows.append((start, duration, seated, blocks, completed))
        self.running += new
        for each in self.running:
            each.tokens += 1
        self.running = [each for each in self.running if self._there(each, late).any()]
        end = start + duration
        return taken + decodes + fresh_blocks, admitted, start if late else end, end

    def _preempt(self, step, blocks, taken):
        """Take from the last to enter what does not fit."""
        while blocks > self.node.kv_tokens * (1 + 1e-9):
            each = self.running[-1]
            held = self._held(each)
            share = min(1.0, (blocks - self.node.kv_tokens) / held) if held > 0 else 1.0
            if held > 0:
                there = share * each.atom
                free = max(0.0, self.node.kv_tokens - blocks)
                self.queue.append(Cohort(there, each.tokens, step, taken, free))
                self.evicted += self._there(self.queue[-1], 0).sum()
            each.atom = each.atom * (1 - share)
            blocks -= share * held
            if share == 1:
                self.running.pop()
        return blocks

    def _again(self, left, seats, room, taken):
        """Return which share of the next preempted starts again, and what all of it takes."""
        each, size = self.queue[-1], self.node.block_size
        there = self._there(each, 0)
        mass = float(there.sum())
        if mass <= 1e-12:
            return 1.0, (0.0, 0.0, 0.0, 0.0, 0.0)
        tokens = self.mix.prefill + each.tokens
        held = float(there @ np.ceil(tokens / size)) * size
        kv = float(there @ tokens)
        lost = 1.0
        if self.node.keeps_prefixes:
            lost = min(1.0, max(0.0, (taken - each.stopped - each.ahead) / held))
        own = min(kv, max(kv * lost, 0.5 * (size + 1) * mass))
        share = min(1.0, left / own, seats / mass, room / held)
        return max(share, 0.0), (own, kv - own, kv, held, mass)
