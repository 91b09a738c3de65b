"""One node over time, from an empty start or a queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.node_work.coming import InWindows
from ode.node_work.decode_times import Stretch, changing
from ode.node_work.forward import occupancy
from ode.node_work.generator import BUSY, IDLE, grid_of
from ode.node_work.latencies import Node, highest_start, met_by_arrivals
from ode.node_work.model import DecodeNodeModel, NodeModel, longest_stay
from ode.node_work.regimes import Regime, Regimes
from ode.node_work.windows import (
    OUTPUT_WINDOWS,
    WINDOWS,
    Window,
    dispersion_within,
    edges_of,
    window_after,
    windows_between,
    with_beginning,
)
from serving import (
    DecodeNode,
    LatencySamples,
    RateProfile,
    RequestMix,
    Trajectory,
    UnsupportedError,
)

AFTERWARDS = np.array([0.02, 0.05, 0.1, 0.17, 0.25, 0.35, 0.5, 0.7, 1.0])
"""Edges of the windows after the last arrival, over the time until nobody is left."""

SAMPLES, FEWEST = 6144, 512
"""Latency samples of a solution, about, and of one regime at least."""


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """What is asked, and what its answers follow from.

    Parameters
    ----------
    model
        The node and who arrives at it.
    profile, initial, horizon
        As :func:`ode.solve` takes them.
    one_rate
        Whether the profile has but one arrival rate, which is then read exactly.
    base
        Closure at the mean arrival rate.
    windows
        Windows of constant rate that follow the profile.
    regimes
        What the node does at each rate.
    start : shape (K + 1,)
        Law of V at time 0.
    """

    model: NodeModel
    profile: RateProfile
    initial: InitialState
    horizon: float
    one_rate: bool
    base: WorkClosure
    windows: list[Window]
    regimes: Regimes
    start: NDArray[np.float64]


class _Met(NamedTuple):
    """Arrivals of a window.

    Parameters
    ----------
    begin, duration : [time]
        Of the window.
    regime
        What the node does.
    flow : shape (K + 1,) [requests]
        Arrivals by the level that they meet.
    """

    begin: float
    duration: float
    regime: Regime
    flow: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Passage:
    """What happens from time 0 to the horizon.

    Parameters
    ----------
    met
        Arrivals of each window.
    stretches
        What decodes go through, on to where nothing changes any more.
    steps
        Steps of the forward equation.
    idle : [time]
        Time that the node spends idle.
    batches, tokens : [1, tokens]
        Batches and the tokens that they execute.
    left : [time]
        How long the work that is left at the horizon takes a saturated node.
    """

    met: list[_Met]
    stretches: list[Stretch]
    steps: int
    idle: float
    batches: float
    tokens: float
    left: float


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
    passage = _passage(problem)
    arrivals = max(profile.total + initial.waiting, 1e-300)
    duration = horizon + passage.left
    return Solution(
        method="node_work",
        outputs=lambda: _trajectory(problem),
        status="done",
        message=f"reached t = {horizon:g} in {passage.steps} steps",
        stats={
            "steps": passage.steps,
            "levels": int(problem.regimes.work.size),
            "closures": len({id(met.regime) for met in passage.met}),
            "requests_that_fit": model.size,
        },
        labels=labels,
        totals={
            "duration": duration,
            "completed": arrivals,
            "output_tokens": arrivals * model.mix.mean_decode,
            "gpu_utilization": 1.0 - passage.idle / duration,
            "processing_efficiency": passage.tokens / max(passage.batches * model.batch, 1e-300),
        },
        latencies=lambda: _samples(passage, problem),
    )


def _posed(
    profile: RateProfile, model: NodeModel, initial: InitialState, horizon: float
) -> _Problem:
    """Return the problem with its windows and levels."""
    full = model.capacity
    mean = profile.total / horizon if horizon > 0 else full
    edges = edges_of(profile, horizon)
    dispersion = dispersion_within(profile, edges)
    base = model.closure(max(mean, 1e-6 * full), dispersion)
    edges = with_beginning(edges, longest_stay(model.mix) * base.saturation.batch_time)
    windows = windows_between(profile, edges, model.stay)
    highest = _highest(profile, initial.waiting, horizon, base)
    if not initial.waiting > 0:
        most = max((window.rate for window in windows), default=mean)
        busiest = base if most <= base.rate else model.closure(most, dispersion)
        highest = min(highest, busiest.reach)
    work, uniform = grid_of(base, highest)
    one_rate = profile.time.size == 2 and bool(profile.cumulative[0] == 0)
    regimes = Regimes(model, work, uniform, dispersion)
    if one_rate:
        regimes = regimes.reading(window.middle for window in windows)
    start = _at_start(work, initial.waiting * base.work.mean)
    return _Problem(model, profile, initial, horizon, one_rate, base, windows, regimes, start)


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


def _passage(problem: _Problem) -> _Passage:
    """Return what happens in the windows, one after the other."""
    law, met, stretches = problem.start.copy(), _met_at_start(problem), []
    steps, idle, batches, tokens, now = 0, 0.0, 0.0, 0.0, 0.0
    age = _Age(problem)
    for window in problem.windows:
        regime = problem.regimes.at(window.middle, age.middle(window), window.rate)
        levels = regime.levels
        spent, taken = _advance(law, regime, window)
        steps += taken
        idle += spent[IDLE]
        often = spent[BUSY] / levels.batch_time[BUSY]
        batches += float(often.sum())
        tokens += float(often @ levels.batch[BUSY].mean(axis=1))
        age.passed(window, float(often.sum()))
        flow = met_by_arrivals(regime.closure, problem.regimes.work, window.rate * spent)
        met.append(_Met(now, window.duration, regime, flow))
        stretches.append(_stretch(window, regime, spent))
        now += window.duration
    left = float(law @ problem.regimes.work) / problem.base.fastest
    stretches += _afterwards(problem, law, age, left)
    return _Passage(met, stretches, steps, idle, batches, tokens, left)


def _stretch(window: Window, regime: Regime, spent: NDArray[np.float64]) -> Stretch:
    """Return a window as decodes see it: there is at least one request while they go on."""
    times = regime.levels.batch_time[BUSY]
    busy = float(spent[BUSY].sum())
    often = float((spent[BUSY] / times).sum()) / busy if busy > 0 else 1.0 / float(times[0])
    return Stretch(window.duration, window.duration * often, window.rate, regime.closure)


def _afterwards(
    problem: _Problem, law: NDArray[np.float64], age: _Age, left: float
) -> list[Stretch]:
    """Return what decodes go through after the last arrival.

    The backlog takes ``left`` [time], and the last decodes the longest stay from there.
    """
    law, end = law.copy(), problem.windows[-1].end if problem.windows else 0.0
    longest = left + longest_stay(problem.model.mix) * problem.base.saturation.batch_time
    edges = longest * AFTERWARDS
    stretches = []
    for duration in np.diff(edges, prepend=0.0).tolist():
        window = window_after(duration, 0.0, end, problem.model.stay)
        regime = problem.regimes.at(window.middle, age.middle(window), window.rate)
        spent, _ = _advance(law, regime, window)
        age.passed(window, float((spent[BUSY] / regime.levels.batch_time[BUSY]).sum()))
        stretches.append(_stretch(window, regime, spent))
        end = window.end
    return stretches


class _Age:
    """How many batches the requests furthest on may have been in."""

    def __init__(self, problem: _Problem) -> None:
        self._batches = 0.0
        self._each = float(problem.regimes.at(0.0).levels.batch_time[BUSY][0])

    def middle(self, window: Window) -> float:
        """Return the age [iterations] in the middle of a window that begins now."""
        return self._batches + 0.5 * window.duration / self._each

    def end(self, window: Window) -> float:
        """Return the age [iterations] at the end of a window that begins now."""
        return self._batches + window.duration / self._each

    def passed(self, window: Window, batches: float) -> None:
        """Take in so many ``batches`` of a window that is over."""
        self._batches += batches
        if batches > 0:
            self._each = window.duration / batches


def _met_at_start(problem: _Problem) -> list[_Met]:
    """Return those who wait at time 0.

    They meet one another: they are evenly spread below the work that they bring together.
    """
    work, waiting = problem.regimes.work, problem.initial.waiting
    if not (waiting > 0 and problem.windows):
        return []
    share = np.zeros(work.size)
    edges = np.linspace(0, 1, 257)[1:] * float(problem.start @ work)
    np.add.at(share, np.searchsorted(work, edges) - 1, 1 / 256)
    regime = problem.regimes.at(problem.windows[0].rate)
    return [_Met(0.0, 0.0, regime, waiting * share)]


def _advance(
    law: NDArray[np.float64], regime: Regime, window: Window
) -> tuple[NDArray[np.float64], int]:
    """Advance ``law`` in place by a window; return the time spent at each level, and the steps."""
    band, below = regime.generator(window.rate)
    spent = np.zeros(law.size)
    first = min(2 * regime.closure.saturation.batch_time, window.duration / 4)
    return spent, occupancy(band, below, law, first, window.duration, spent)


def _samples(passage: _Passage, problem: _Problem) -> LatencySamples:
    """Return latencies of all arrivals."""
    names = ("queue_delay", "ttft", "tpot", "e2el", "weight")
    whole = np.sum([met.flow for met in passage.met], axis=0) if passage.met else np.zeros(1)
    total = float(whole.sum())
    if not total > 0:  # nobody arrives
        return LatencySamples(**dict.fromkeys(names, np.empty(0)))
    highest = highest_start(problem.base, problem.regimes.work, whole)
    stay = longest_stay(problem.model.mix) * problem.base.saturation.batch_time
    decode = changing(passage.stretches, problem.base, stay, problem.model.capacity, highest)
    of_regime: dict[int, list[_Met]] = {}
    for met in passage.met:
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
        parts.append(problem.model.samples(node, flow, max(FEWEST, int(SAMPLES * share))))
    return LatencySamples(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def _trajectory(problem: _Problem) -> Trajectory:
    """Return the mean of what this model knows of the node, over time.

    Running requests are those that memory holds, executing or not; what is swapped or evicted
    is not part of the model.
    """
    edges = np.linspace(0.0, problem.horizon, OUTPUT_WINDOWS + 1)
    windows = windows_between(problem.profile, edges, problem.model.stay)
    law, regimes = problem.start.copy(), problem.regimes
    if problem.one_rate:
        regimes = regimes.reading(window.end for window in windows)
    means = [_means(law, regimes.at(windows[0].rate), problem.model)]
    age = _Age(problem)
    for window in windows:
        regime = regimes.at(window.end, age.end(window), window.rate)
        spent, _ = _advance(law, regime, window)
        age.passed(window, float((spent[BUSY] / regime.levels.batch_time[BUSY]).sum()))
        means.append(_means(law, regime, problem.model))
    outputs = {name: np.array([each[name] for each in means]) for name in means[0]}
    waiting = problem.initial.waiting
    arrived = waiting + problem.profile.count(edges)
    arrived[0] = waiting
    outputs["running"] = outputs["in_system"] - outputs["waiting"]
    outputs["completed"] = np.maximum(arrived - outputs["in_system"], 0.0)
    return Trajectory(edges, outputs)


def _means(law: NDArray[np.float64], regime: Regime, model: NodeModel) -> dict[str, float]:
    """Return the outputs that the law of V gives at one moment."""
    given = regime.outputs(model.beyond_batch(regime.closure))
    return {name: float(law @ at_level) for name, at_level in given.items()}
