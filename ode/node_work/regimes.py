"""What a node does at each arrival rate, worked out once for rates that are nearly the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode.node_work.generator import IDLE, Levels, generator, levels_of, requests_per_token
from ode.node_work.latencies import work_ahead
from ode.node_work.model import NodeModel, longest_stay

RESOLUTION = 0.04
"""Rates are told apart by this share of the capacity."""

YOUNGEST, AGEING = 2.0, 1.3
"""Least number of batches since the start, and the ratio of those that are told apart."""

HIGHEST = 4.0
"""Rates over the capacity beyond which they are not told apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Regime:
    """What a node does at one arrival rate, a while after it began.

    Parameters
    ----------
    rate : [requests/time]
        Rate at which the requests that execute came.
    oldest : [iterations]
        Batches that the requests furthest on have been in; infinite where all ages are there.
    closure, levels
        The batch given the work in system: in general, and at the levels of the problem.
    """

    rate: float
    oldest: float
    closure: WorkClosure
    levels: Levels
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def generator(self, rate: float) -> tuple[NDArray[np.float64], int]:
        """Return the generator of V at an arrival ``rate``, see :func:`generator`."""
        if rate not in self._made:
            self._made[rate] = generator(self.levels, self.closure, rate)
        return self._made[rate]

    def outputs(self, beyond_batch: float, top: int) -> Mapping[str, NDArray[np.float64]]:
        """Return what is expected at each of the lowest levels, (top,), by output.

        Parameters
        ----------
        beyond_batch
            Work of those who are let in beyond a saturated batch.
        top
            How many levels.
        """
        if ("outputs", top) not in self._made:
            self._made["outputs", top] = self._outputs(beyond_batch, top)
        return self._made["outputs", top]

    def _outputs(self, beyond_batch: float, top: int) -> Mapping[str, NDArray[np.float64]]:
        closure, levels = self.closure, self.levels.lowest(top)
        tokens = np.minimum(levels.demand, closure.saturation.batch_tokens)
        executing = tokens * requests_per_token(closure, levels.work, tokens)
        ahead = levels.full / closure.work.mean
        unadmitted = ahead * work_ahead(closure, levels.work, beyond_batch)
        # with room they wait for the batch under way to end
        about_to = (1.0 - levels.full) * levels.pending / closure.work.fresh_tokens
        if beyond_batch == 0.0:
            ahead = unadmitted
        else:
            ahead = ahead * work_ahead(closure, levels.work)
        duration = levels.batch_time.copy()
        duration[IDLE] = 0.0
        return {
            "waiting": unadmitted + about_to,
            "in_system": executing + ahead,
            "batch_tokens": levels.batch.mean(axis=1),
            "batch_duration": duration,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Regimes:
    """The regime of each rate, at the levels of one problem.

    A regime follows from its rate alone, so that the order in which regimes are asked for changes
    no answer; those made before are kept to save time.

    Parameters
    ----------
    model
        The node and who arrives at it.
    work : shape (K + 1,) [token-iterations]
        Levels of work in system, an idle node first.
    uniform
        How many of the levels are on the uniform grid.
    dispersion
        Variance of the number of arrivals in a long time over its mean.
    exact
        Rates [requests/time] to be read exactly, each by the step of the resolution that it is in;
        in other steps one rate of the step stands for all.
    """

    model: NodeModel
    work: NDArray[np.float64]
    uniform: int
    dispersion: float = 1.0
    exact: Mapping[int, float] = field(default_factory=dict)
    _made: dict[tuple[float, float, float], Regime] = field(
        default_factory=dict, init=False, repr=False
    )

    def at(self, rate: float, oldest: float = math.inf, arriving: float | None = None) -> Regime:
        """Return the regime of a ``rate`` [requests/time] so many batches after the start.

        ``arriving`` is the rate now, where it is not the one at which those came who execute.
        """
        shared, oldest = self._shared(rate), self._age(oldest)
        now = shared
        if arriving is not None and self.model.computes_prompts:
            now = self._shared(arriving) if arriving > 0 else 0.0
        key = shared, oldest, now
        if key not in self._made:
            closure = self.model.closure(shared, self.dispersion, oldest, now)
            levels = levels_of(closure, self.work, self.uniform)
            self._made[key] = Regime(shared, oldest, closure, levels)
        return self._made[key]

    def _shared(self, rate: float) -> float:
        """Return the rate that stands for others like it."""
        step = self._step(rate)
        return self.exact.get(step, max(step, 0.5) * RESOLUTION * self.model.capacity)

    def _age(self, oldest: float) -> float:
        """Return the age [iterations] that stands for others like it."""
        if oldest >= longest_stay(self.model.mix):
            return math.inf
        return YOUNGEST * AGEING ** round(math.log(max(oldest / YOUNGEST, 1.0)) / math.log(AGEING))

    def reading(self, rates: Iterable[float]) -> Regimes:
        """Return regimes that read ``rates`` exactly: of those in one step, the first."""
        exact = dict(self.exact)
        for rate in rates:
            exact.setdefault(self._step(rate), rate)
        return replace(self, exact=exact)

    def _step(self, rate: float) -> int:
        """Return the step of the resolution that a ``rate`` [requests/time] is in."""
        full = self.model.capacity
        return round(min(rate, HIGHEST * full) / (RESOLUTION * full))
