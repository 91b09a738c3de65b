"""A plain reading of the iteration clock: explicit masses per (p, D), lists, no tables.

Slow and obvious. A parcel carries the mass it arrived with, its age and the furthest position it
ever reached; of atom j, the share ``clip(D_j - x, 0, 1)`` is alive at x = max(age, furthest).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serving import DecodeNode, RateProfile, RequestMix


@dataclass(eq=False)
class Parcel:
    mass: float
    age: float = 0.0
    furthest: float = 0.0


class Node:
    def __init__(self, mix: RequestMix, instance: DecodeNode) -> None:
        self.mix, self.instance = mix, instance
        self.running: list[Parcel] = []
        self.waiting: list[Parcel] = []
        self.swapped: list[Parcel] = []
        self.completed = self.evicted = self.moved = 0.0

    def alive_by_atom(self, parcel: Parcel) -> np.ndarray:
        x = max(parcel.age, parcel.furthest)
        return parcel.mass * self.mix.probability * np.clip(self.mix.decode - x, 0.0, 1.0)

    def alive(self, parcel: Parcel) -> float:
        return float(self.alive_by_atom(parcel).sum())

    def held(self, parcel: Parcel) -> float:
        return float(self.alive_by_atom(parcel) @ (self.mix.prefill + parcel.age))

    def memory(self) -> float:
        return sum(self.held(q) for q in self.running)

    def requests(self) -> float:
        return sum(self.alive(q) for q in self.running)

    def boundary(self, fresh: float) -> None:
        if fresh > 0:
            self.waiting.append(Parcel(fresh))
        M = self.instance.M_total
        if self.memory() + self.requests() > M * (1 + 1e-9):
            self.evict()
            return
        self.fill(self.swapped)
        if not self.swapped:
            self.fill(self.waiting)

    def evict(self) -> None:
        M = self.instance.M_total
        while (excess := self.memory() + self.requests() - M) > 1e-9 * M:
            last = self.running[-1]
            frees = self.held(last) + self.alive(last)
            if frees <= 0:
                self.running.pop()
                continue
            share = min(1.0, excess / frees)
            victim = replace(last, mass=last.mass * share)
            last.mass *= 1 - share
            if share == 1.0:
                self.running.pop()
            self.evicted += self.alive(victim)
            if self.instance.mode == "sacrifice":
                victim.age = 0.0
                self.waiting.insert(0, victim)
            else:
                self.moved += self.held(victim)
                self.swapped.append(victim)

    def fill(self, queue: list[Parcel]) -> None:
        M, kappa = self.instance.M_total, self.instance.admission_threshold
        while queue:
            first = queue[0]
            held, alive = self.held(first), self.alive(first)
            room = M - self.memory() - self.requests()
            share = 1.0
            if held > 0:
                share = min(1.0, room / (held + alive), (kappa * M - self.memory()) / held)
                if share < 1 and share * held <= 1e-9 * M:
                    return
            self.running.append(replace(first, mass=first.mass * share))
            if queue is self.swapped:
                self.moved += share * held
            first.mass *= 1 - share
            if share == 1.0:
                queue.pop(0)

    def advance(self, parcel: Parcel, step: float) -> float:
        """Age a parcel by ``step`` tokens; return its mass before."""
        before = self.alive(parcel)
        parcel.age += step
        parcel.furthest = max(parcel.furthest, parcel.age)
        self.completed += before - self.alive(parcel)
        return before

    def execute(self) -> tuple[float, float]:
        """Advance the oldest parcels within the budget; return batch tokens and duration."""
        tokens = size = 0.0
        for parcel in list(self.running):
            cost = self.held(parcel) + self.alive(parcel)
            if cost <= 0:
                continue
            left = self.instance.token_budget - tokens
            if left <= 0:
                break
            share = min(1.0, left / cost)
            if share < 1.0 and cost > 0.005 * self.instance.token_budget:
                rest = replace(parcel, mass=parcel.mass * (1 - share))
                self.running.insert(self.running.index(parcel) + 1, rest)
                parcel.mass *= share
                tokens += share * cost
                size += self.advance(parcel, 1.0)
                break
            tokens += share * cost
            size += share * self.advance(parcel, share)
        duration = self.instance.batch_time.duration(tokens, size, self.moved)
        self.moved = 0.0
        return tokens, duration


def march(profile: RateProfile, mix: RequestMix, instance: DecodeNode, end: float) -> np.ndarray:
    """Return rows (start, running, swapped, waiting, completed, memory, tokens, evicted)."""
    node, now, arrived, rows = Node(mix, instance), 0.0, 0.0, []
    while now < end:
        total = float(profile.count(min(now, profile.horizon)))
        node.boundary(total - arrived)
        arrived = total
        waiting = sum(node.alive(q) for q in node.waiting)
        swapped = sum(node.alive(q) for q in node.swapped)
        row = [now, node.requests(), swapped, waiting, node.completed, node.memory()]
        tokens, duration = node.execute()
        rows.append([*row, tokens, node.evicted])
        now += duration
    return np.array(rows)
