"""One node over time, from an empty start or a queue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure, capacity, saturation, work_closure
from ode._caveats import requests_that_fit
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.node_work.forward import occupancy
from ode.node_work.generator import generator, grid_of, levels_of, requests_per_token
from ode.node_work.latencies import beyond_batch, node_of, samples_of, work_ahead
from serving import (
    DecodeNode,
    LatencySamples,
    RateProfile,
    RequestMix,
    Trajectory,
    UnsupportedError,
)

SAMPLES = 6144
WINDOWS, OUTPUT_WINDOWS = 48, 96
"""Most windows of constant rate, and how many a trajectory is shown at."""

MOST_REQUESTS = 10_000

RESOLUTION = 0.04
"""Rates are told apart by this share of the capacity."""


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """A time in which the rate is constant, and the rate that the executing requests came at."""

    start: float
    duration: float
    rate: float
    recent: float


def solve_node_work(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    *,
    initial: InitialState,
    horizon: float,
    drain: bool,
    labels: tuple[str, ...],
) -> Solution:
    """Solve the forward equation of one node; see :func:`ode.solve` for the shared parameters.

    Raises
    ------
    UnsupportedError
        If the node starts with running or swapped requests, or ``drain`` is False.
    """
    if initial.running.size or initial.swapped.size:
        raise UnsupportedError(
            "the method node_work starts from an empty node or from waiting requests, not from "
            "running ones; use lagrangian"
        )
    if not drain:
        raise UnsupportedError(
            "the method node_work counts every arrival; it cannot stop undrained"
        )
    labels = (*labels, *_caveats(profile, instance, requests_that_fit(mix, instance)))
    march = _March(profile, mix, instance, initial, horizon)
    flows, steps, idle, efficiency, left = march.flows(march.windows(WINDOWS))
    arrivals = max(profile.total + initial.waiting, 1e-300)
    duration = horizon + left

    def latencies() -> LatencySamples:
        return march.samples(flows)

    return Solution(
        method="node_work",
        outputs=march.trajectory,
        status="done",
        message=f"reached t = {horizon:g} in {steps} steps",
        stats={
            "steps": steps,
            "levels": int(march.work.size),
            "closures": len(flows),
            "requests_that_fit": requests_that_fit(mix, instance),
        },
        labels=labels,
        totals={
            "duration": duration,
            "completed": arrivals,
            "output_tokens": arrivals * mix.mean_decode,
            "gpu_utilization": 1.0 - idle / duration,
            "processing_efficiency": efficiency,
        },
        latencies=latencies,
    )


def _caveats(profile: RateProfile, instance: DecodeNode, requests: float) -> tuple[str, ...]:
    labels = []
    if (np.diff(profile.time) == 0).any():
        labels.append(
            "approximate: arrivals at given times are taken as Poisson arrivals at their rate"
        )
    if requests > MOST_REQUESTS:
        labels.append(
            f"approximate: some {requests:.0f} requests fill the node, more than the levels of "
            "work resolve; the fluid limit (lagrangian) is the better method"
        )
    if instance.mode == "sacrifice":
        labels.append(
            "approximate: the work that sacrifices repeat is left out; evictions of one node are "
            "few while it is healthy (see the certificate)"
        )
    return tuple(labels)


class _March:
    """The levels of one problem, and what happens on them window by window."""

    def __init__(
        self,
        profile: RateProfile,
        mix: RequestMix,
        instance: DecodeNode,
        initial: InitialState,
        horizon: float,
    ) -> None:
        self.profile, self.mix, self.instance = profile, mix, instance
        self.initial, self.horizon = initial, horizon
        self.capacity = capacity(mix, instance)
        self.memory = mix.mean_decode * saturation(mix, instance).batch_time
        mean = profile.total / horizon if horizon > 0 else self.capacity
        self.base = work_closure(mix, instance, max(mean, 1e-6 * self.capacity))
        self.closures: dict[int, WorkClosure] = {}
        self.work, self.uniform = grid_of(self.base, self._highest(self.base))
        self.levels = {}

    def _highest(self, base: WorkClosure) -> float:
        """Return a level that V hardly ever exceeds: mean backlog and six standard deviations."""
        fastest = base.fastest
        edges = np.linspace(0.0, self.horizon, WINDOWS + 1)
        rates = np.maximum(np.diff(self.profile.count(edges)), 0.0)
        rates[0] += self.profile.count(0.0)
        backlog = highest = self.initial.waiting * base.work.mean
        width = self.horizon / WINDOWS
        variance = 0.0
        for count in rates:
            backlog += count * base.work.mean - fastest * width
            variance += count * base.work.second
            if backlog < 0.0:
                backlog, variance = 0.0, 0.0
            highest = max(highest, backlog + 6 * np.sqrt(variance + base.work.second))
        spread = np.sqrt(self.profile.total * base.work.second)
        return highest + min(6 * spread, 20 * base.set_mean) + 4 * base.set_mean

    def windows(self, most: int) -> list[_Window]:
        """Return windows of constant rate that follow the profile."""
        knots = self.profile.time[self.profile.time < self.horizon]
        jumps = knots[:-1][np.diff(knots) == 0] if knots.size > 1 else knots[:0]
        if np.unique(knots).size > most or jumps.size > 4:
            edges = np.linspace(0.0, self.horizon, most + 1)
        else:
            edges = np.unique(np.concatenate([[0.0], knots, [self.horizon]]))
            if jumps.size:  # a burst takes a moment, in which nothing is served
                moment = 1e-7 * max(self.horizon, 1e-300)
                edges = np.unique(np.concatenate([edges, jumps - moment, jumps + moment]))
                edges = edges[(edges >= 0) & (edges <= self.horizon)]
        count = self.profile.count(edges)
        count[0] = 0.0
        out, recent = [], None
        for a, b, arrivals in zip(edges, edges[1:], np.diff(count), strict=False):
            rate = arrivals / (b - a)
            middle = rate
            if recent is not None:
                keep = np.exp(-0.5 * (b - a) / self.memory)
                middle = rate + (recent - rate) * keep
                recent = rate + (recent - rate) * keep**2
            else:
                recent = rate
            out.append(_Window(float(a), float(b - a), float(rate), float(middle)))
        return out

    def closure(self, recent: float) -> tuple[int, WorkClosure]:
        """Return the closure of a rate, one for rates that are nearly the same."""
        key = round(min(recent, 4 * self.capacity) / (RESOLUTION * self.capacity))
        if key not in self.closures:
            constant = self.profile.time.size == 2 and self.profile.cumulative[0] == 0
            rate = recent if constant else max(key, 0.5) * RESOLUTION * self.capacity
            self.closures[key] = work_closure(self.mix, self.instance, rate)
            law = self.instance.batch_time
            self.levels[key] = levels_of(self.closures[key], law, self.work, self.uniform)
        return key, self.closures[key]

    def start(self) -> NDArray[np.float64]:
        """Return the law of V at time 0."""
        law = np.zeros(self.work.size)
        if self.initial.waiting > 0:
            mean = self.initial.waiting * self.base.work.mean
            at = np.interp(mean, self.work, np.arange(self.work.size))
            lower = min(int(at), self.work.size - 2)
            law[lower], law[lower + 1] = 1 - (at - lower), at - lower
        else:
            law[0] = 1.0
        return law

    def flows(
        self, windows: list[_Window]
    ) -> tuple[dict[int, NDArray[np.float64]], int, float, float, float]:
        """Return arrivals by the level they meet, for each closure, and totals of the march."""
        law, steps, idle = self.start(), 0, 0.0
        flows: dict[int, NDArray[np.float64]] = {}
        if self.initial.waiting > 0 and windows:
            key, _ = self.closure(windows[0].rate)
            # those who wait at time 0 meet one another: evenly spread below the start
            share = np.zeros(self.work.size)
            edges = np.linspace(0, 1, 257)[1:] * float(law @ self.work)
            np.add.at(share, np.searchsorted(self.work, edges) - 1, 1 / 256)
            flows[key] = self.initial.waiting * share
        done = batches = 0.0
        for window in windows:
            key, closure = self.closure(window.recent)
            levels = self.levels[key]
            band, below = generator(levels, closure, window.rate)
            spent = np.zeros(law.size)
            first = min(2 * closure.saturation.batch_time, window.duration / 4)
            steps += occupancy(band, below, law, first, window.duration, spent)
            idle += spent[0]
            often = spent[1:] / levels.batch_time[1:]
            done += float(often @ levels.batch[1:].mean(axis=1))
            batches += float(often.sum())
            flows[key] = flows.get(key, 0.0) + window.rate * spent
        most = min(self.instance.M_total, self.instance.token_budget)
        efficiency = done / max(batches * most, 1e-300)
        return flows, steps, idle, efficiency, float(law @ self.work) / self.base.fastest

    def samples(self, flows: dict[int, NDArray[np.float64]]) -> LatencySamples:
        """Return latencies of all flows."""
        total = sum(float(flow.sum()) for flow in flows.values())
        parts = []
        for key, flow in flows.items():
            share = float(flow.sum()) / max(total, 1e-300)
            if share <= 0:
                continue
            closure, levels = self.closures[key], self.levels[key]
            node = node_of(closure, levels, self.instance)
            count = max(512, int(SAMPLES * share))
            parts.append(samples_of(node, self.instance, flow, count))
        names = ("queue_delay", "ttft", "tpot", "e2el", "weight")
        return LatencySamples(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )

    def trajectory(self) -> Trajectory:
        """Return the mean of what this model knows of the node, over time.

        Running requests are those that memory holds, executing or not; what is swapped or evicted
        is not part of the model.
        """
        edges = np.linspace(0.0, self.horizon, OUTPUT_WINDOWS + 1)
        rates = np.diff(self.profile.count(edges)) / np.diff(edges)
        rates[0] += self.profile.count(0.0) / (edges[1] - edges[0])
        law = self.start()
        rows = [self._means(law, rates[0])]
        recent = rates[0]
        for rate, duration in zip(rates, np.diff(edges), strict=True):
            recent = rate + (recent - rate) * np.exp(-duration / self.memory)
            key, closure = self.closure(recent)
            band, below = generator(self.levels[key], closure, rate)
            first = min(2 * closure.saturation.batch_time, duration / 4)
            occupancy(band, below, law, first, duration, np.zeros(law.size))
            rows.append(self._means(law, recent))
        in_system, waiting, tokens, time = np.array(rows).T
        arrived = self.initial.waiting + self.profile.count(edges)
        arrived[0] = self.initial.waiting
        return Trajectory(
            edges,
            {
                "waiting": waiting,
                "running": in_system - waiting,
                "in_system": in_system,
                "completed": np.maximum(arrived - in_system, 0.0),
                "batch_tokens": tokens,
                "batch_duration": time,
            },
        )

    def _means(self, law: NDArray[np.float64], recent: float) -> tuple[float, float, float, float]:
        """Return requests in system and waiting, batch tokens and batch time under ``law``."""
        key, closure = self.closure(recent)
        levels, full = self.levels[key], closure.saturation
        tokens = np.minimum(levels.demand, full.batch_tokens)
        executing = tokens * requests_per_token(closure, levels.work, tokens)
        ahead = levels.full * work_ahead(closure, levels.work) / closure.work.mean
        unadmitted = levels.full * (
            work_ahead(closure, levels.work, beyond_batch(closure, self.instance))
            / closure.work.mean
        )
        return (
            float(law @ (executing + ahead)),
            float(law @ unadmitted),
            float(law @ levels.batch.mean(axis=1)),
            float(law[1:] @ levels.batch_time[1:]),
        )
