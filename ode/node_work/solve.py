"""One node over time, from an empty start or a queue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.node_work.coming import InWindows
from ode.node_work.decode_times import changing
from ode.node_work.generator import IDLE, grid_of
from ode.node_work.latencies import Node, highest_start
from ode.node_work.model import DecodeNodeModel, NodeModel, longest_stay
from ode.node_work.outputs import trajectory_of
from ode.node_work.passage import Met, Passage, Problem, passage
from ode.node_work.presence import Arrivals, Clock, in_use
from ode.node_work.regimes import Regimes
from ode.node_work.windows import (
    WINDOWS,
    dispersion_within,
    edges_of,
    windows_between,
    with_beginning,
    with_shorter,
)
from serving import (
    DecodeNode,
    LatencySamples,
    RateProfile,
    RequestMix,
    UnsupportedError,
)

SAMPLES, FEWEST = 6144, 512
"""Latency samples of a solution, about, and of one regime at least."""


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
    model = DecodeNodeModel(mix, instance)
    return solved(profile, model, initial=initial, horizon=horizon, labels=labels)


def solved(
    profile: RateProfile,
    model: NodeModel,
    *,
    initial: InitialState,
    horizon: float,
    labels: tuple[str, ...],
) -> Solution:
    """Solve the forward equation of a node; see :func:`ode.solve` for the other parameters.

    Parameters
    ----------
    model
        The node and who arrives at it.
    """
    problem = _posed(profile, model, initial, horizon)
    given_times = bool((np.diff(profile.time) == 0).any())
    base = problem.base
    own = model.labels(base.rate, base.dispersion, given_times=given_times)
    labels = tuple(dict.fromkeys((*labels, *own)))
    found = passage(problem)
    count = max(profile.total + initial.waiting, 1e-300)
    arrivals = _arrivals(found, problem)
    lasts, batches = (
        np.array(each) for each in zip(*(s[:2] for s in found.stretches), strict=True)
    )
    clock = Clock(lasts, batches)
    duration = in_use(arrivals, clock)
    busy = horizon - found.idle + in_use(arrivals, clock, horizon)
    return Solution(
        method="node_work",
        outputs=lambda: trajectory_of(problem, found, arrivals),
        status="done",
        message=f"reached t = {horizon:g} in {found.steps} steps",
        stats={
            "steps": found.steps,
            "levels": int(problem.regimes.work.size),
            "closures": len({id(met.regime) for met in found.met}),
            "requests_that_fit": model.size,
        },
        labels=labels,
        totals={
            "duration": duration,
            "completed": count,
            "output_tokens": count * model.mix.mean_decode,
            "gpu_utilization": min(1.0, busy / duration) if duration > 0 else 0.0,
            "processing_efficiency": found.tokens / max(found.batches * model.batch, 1e-300),
        },
        latencies=lambda: arrivals.samples,
    )


def _posed(
    profile: RateProfile, model: NodeModel, initial: InitialState, horizon: float
) -> Problem:
    """Return the problem with its windows and levels."""
    full = model.capacity
    mean = profile.total / horizon if horizon > 0 else full
    edges = edges_of(profile, horizon)
    dispersion = dispersion_within(profile, edges)
    base = model.closure(max(mean, 1e-6 * full), dispersion)
    edges = with_beginning(edges, longest_stay(model.mix) * base.saturation.batch_time)
    one_rate = profile.time.size == 2 and bool(profile.cumulative[0] == 0)
    if not one_rate and horizon > 0:
        edges = with_shorter(edges)
    windows = windows_between(profile, edges, model.stay)
    highest = _highest(profile, initial.waiting, horizon, base)
    if not initial.waiting > 0:
        most = max((window.rate for window in windows), default=mean)
        busiest = base if most <= base.rate else model.closure(most, dispersion)
        highest = min(highest, busiest.reach)
    work, uniform = grid_of(base, highest)
    regimes = Regimes(model, work, uniform, dispersion)
    if one_rate:
        regimes = regimes.reading(window.middle for window in windows)
    start = _at_start(work, initial.waiting * base.work.mean)
    return Problem(model, profile, initial, horizon, one_rate, base, windows, regimes, start)


def _highest(profile: RateProfile, waiting: float, horizon: float, base: WorkClosure) -> float:
    """Return a level that V hardly ever exceeds: mean backlog and six standard deviations."""
    fastest = base.fastest
    counts = np.maximum(np.diff(profile.count(np.linspace(0.0, horizon, WINDOWS + 1))), 0.0)
    counts[0] += profile.count(0.0)
    backlog = highest = waiting * base.work.mean
    width = horizon / WINDOWS
    variance = 0.0
    for count in counts:
        backlog += count * base.work.mean - fastest * width
        variance += count * base.variance
        if backlog < 0.0:
            backlog, variance = 0.0, 0.0
        highest = max(highest, backlog + 6 * np.sqrt(variance + base.work.second))
    spread = np.sqrt(profile.total * base.work.second)
    return highest + min(6 * spread, 20 * base.set_mean) + 4 * base.set_mean


def _at_start(work: NDArray[np.float64], backlog: float) -> NDArray[np.float64]:
    """Return the law of V at time 0, where V is the ``backlog`` [token-iterations]."""
    law = np.zeros(work.size)
    if backlog > 0:
        at = np.interp(backlog, work, np.arange(work.size))
        lower = min(int(at), work.size - 2)
        law[lower], law[lower + 1] = 1 - (at - lower), at - lower
    else:
        law[IDLE] = 1.0
    return law


def _arrivals(found: Passage, problem: Problem) -> Arrivals:
    """Return all arrivals with their latencies."""
    names = ("queue_delay", "ttft", "tpot", "e2el", "weight")
    whole = np.sum([met.flow for met in found.met], axis=0) if found.met else np.zeros(1)
    total = float(whole.sum())
    if not total > 0:  # nobody arrives
        empty = np.empty(0)
        return Arrivals(empty, empty, empty, LatencySamples(**dict.fromkeys(names, empty)))
    highest = highest_start(problem.base, problem.regimes.work, whole)
    stay = longest_stay(problem.model.mix) * problem.base.saturation.batch_time
    decode = changing(found.stretches, problem.base, stay, problem.model.capacity, highest)
    of_regime: dict[int, list[Met]] = {}
    for met in found.met:
        of_regime.setdefault(id(met.regime), []).append(met)
    parts = []
    for mets in of_regime.values():
        flows = np.stack([met.flow for met in mets])
        flow = flows.sum(axis=0)
        share = float(flow.sum()) / total
        if share <= 0:
            continue
        begin, duration = (np.array(each) for each in zip(*(met[:2] for met in mets), strict=True))
        coming = InWindows(begin, duration, flows, problem.profile.count)
        regime = mets[0].regime
        node = Node(regime.closure, regime.levels, decode, coming)
        parts.append(problem.model.arrivals(node, flow, max(FEWEST, int(SAMPLES * share))))
    together = {
        name: np.concatenate([getattr(part.samples, name) for part in parts]) for name in names
    }
    return Arrivals(
        np.concatenate([part.when for part in parts]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.batches for part in parts]),
        LatencySamples(**together),
    )
