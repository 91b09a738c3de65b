"""What happens to one node from time 0 on: who meets what, and what decodes go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode._initial_state import InitialState
from ode.node_work.decode_times import Stretch
from ode.node_work.forward import occupancy
from ode.node_work.generator import BUSY, IDLE
from ode.node_work.latencies import met_by_arrivals
from ode.node_work.model import NodeModel, longest_stay
from ode.node_work.regimes import Regime, Regimes
from ode.node_work.windows import Window, window_after
from serving import RateProfile

AFTERWARDS = np.array([0.02, 0.05, 0.1, 0.17, 0.25, 0.35, 0.5, 0.7, 1.0])
"""Edges of the windows after the last arrival, over the time until nobody is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
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


class Met(NamedTuple):
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
class Passage:
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
    regimes
        What the node does in each window.
    age : shape (W + 1,) [iterations]
        Batches up to the beginning of each window, and up to the end.
    """

    met: list[Met]
    stretches: list[Stretch]
    steps: int
    idle: float
    batches: float
    tokens: float
    regimes: list[Regime]
    age: NDArray[np.float64]


def passage(problem: Problem) -> Passage:
    """Return what happens in the windows, one after the other."""
    law, met, stretches = problem.start.copy(), _met_at_start(problem), []
    steps, idle, batches, tokens, now = 0, 0.0, 0.0, 0.0, 0.0
    age, regimes, aged = Age(problem), [], [0.0]
    for window in problem.windows:
        regime = problem.regimes.at(window.middle, age.middle(window), window.rate)
        levels = regime.levels
        spent, taken = advance(law, regime, window)
        steps += taken
        idle += spent[IDLE]
        often = spent[BUSY] / levels.batch_time[BUSY]
        batches += float(often.sum())
        tokens += float(often @ levels.batch[BUSY].mean(axis=1))
        age.passed(window, float(often.sum()))
        regimes.append(regime)
        aged.append(batches)
        flow = met_by_arrivals(regime.closure, problem.regimes.work, window.rate * spent)
        met.append(Met(now, window.duration, regime, flow))
        stretches.append(_stretch(window, regime, spent))
        now += window.duration
    stretches += _afterwards(problem, law, age)
    return Passage(met, stretches, steps, idle, batches, tokens, regimes, np.array(aged))


def _stretch(window: Window, regime: Regime, spent: NDArray[np.float64]) -> Stretch:
    """Return a window as decodes see it: there is at least one request while they go on."""
    times = regime.levels.batch_time[BUSY]
    busy = float(spent[BUSY].sum())
    often = float((spent[BUSY] / times).sum()) / busy if busy > 0 else 1.0 / float(times[0])
    return Stretch(window.duration, window.duration * often, window.rate, regime.closure)


def _afterwards(problem: Problem, law: NDArray[np.float64], age: Age) -> list[Stretch]:
    """Return what decodes go through after the last arrival.

    The backlog takes a saturated node some time, and the last decodes the longest stay from there.
    """
    left = float(law @ problem.regimes.work) / problem.base.fastest
    law, end = law.copy(), problem.windows[-1].end if problem.windows else 0.0
    longest = left + longest_stay(problem.model.mix) * problem.base.saturation.batch_time
    edges = longest * AFTERWARDS
    stretches = []
    for duration in np.diff(edges, prepend=0.0).tolist():
        window = window_after(duration, 0.0, end, problem.model.stay)
        regime = problem.regimes.at(window.middle, age.middle(window), window.rate)
        spent, _ = advance(law, regime, window)
        age.passed(window, float((spent[BUSY] / regime.levels.batch_time[BUSY]).sum()))
        stretches.append(_stretch(window, regime, spent))
        end = window.end
    return stretches


class Age:
    """How many batches the requests furthest on may have been in."""

    def __init__(self, problem: Problem) -> None:
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


def _met_at_start(problem: Problem) -> list[Met]:
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
    return [Met(0.0, 0.0, regime, waiting * share)]


def advance(
    law: NDArray[np.float64], regime: Regime, window: Window
) -> tuple[NDArray[np.float64], int]:
    """Advance ``law`` in place by a window; return the time spent at each level, and the steps."""
    band, below = regime.generator(window.rate)
    spent = np.zeros(law.size)
    return spent, occupancy(band, below, law, first_step(regime, window), window.duration, spent)


def first_step(regime: Regime, window: Window) -> float:
    """Return the length of the first steps of a window [time]."""
    return min(2 * regime.closure.saturation.batch_time, window.duration / 4)
