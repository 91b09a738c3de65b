"""What the method asks of a kind of node, and a decode node's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure, capacity, requests_that_fit, saturation, work_closure
from ode.node_work.caveats import work_labels
from ode.node_work.latencies import Node, beyond_batch, samples_of
from ode.node_work.presence import Arrivals
from serving import DecodeNode, RequestMix

REST = 0.01
"""Share of the stages of all requests that may be missing."""


class NodeModel(Protocol):
    """A node and who arrives at it, as the method sees them."""

    @property
    def mix(self) -> RequestMix:
        """Who arrives."""
        ...

    @cached_property
    def capacity(self) -> float:
        """Arrival rate [requests/time] that the node just keeps up with."""
        ...

    @cached_property
    def stay(self) -> float:
        """How long a request executes on a saturated node [time]."""
        ...

    @cached_property
    def size(self) -> float:
        """Requests that fit."""
        ...

    @cached_property
    def batch(self) -> float:
        """What a batch holds at most, in tokens of the closure."""
        ...

    @property
    def computes_prompts(self) -> bool:
        """Whether arrivals make the batches longer that they come in."""
        ...

    def closure(
        self,
        rate: float,
        dispersion: float,
        oldest: float = math.inf,
        arriving: float | None = None,
    ) -> WorkClosure:
        """Return the closure at an arrival ``rate`` [requests/time], see :func:`work_closure`.

        ``arriving`` is the rate now, where it is not the one at which those came who execute.
        """
        ...

    def labels(
        self, rate: float, dispersion: float, *, given_times: bool = False
    ) -> tuple[str, ...]:
        """Return the caveats of an answer, see :func:`ode.node_work.caveats.work_labels`."""
        ...

    def arrivals(self, node: Node, flow: NDArray[np.float64], count: int) -> Arrivals:
        """Return about ``count`` weighted arrivals of a ``flow`` (K + 1,) by level met."""
        ...

    def beyond_batch(self, closure: WorkClosure) -> float:
        """Return the work of those who are let in beyond a saturated batch."""
        ...


@lru_cache(maxsize=64)
def longest_stay(mix: RequestMix) -> float:
    """Return the stages after which a request has less than :data:`REST` of its stages, on average.

    These are batches [iterations].
    """
    beyond = np.cumsum(mix.survival()[::-1])[::-1]
    return float(np.count_nonzero(beyond > REST * beyond[0]))


@dataclass(frozen=True, eq=False)
class DecodeNodeModel:
    """A decode node and who arrives at it.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    """

    mix: RequestMix
    instance: DecodeNode

    @cached_property
    def capacity(self) -> float:
        """Arrival rate [requests/time] that the node just keeps up with."""
        return capacity(self.mix, self.instance)

    @cached_property
    def stay(self) -> float:
        """How long a request executes on a saturated node [time]."""
        return self.mix.mean_decode * saturation(self.mix, self.instance).batch_time

    @cached_property
    def size(self) -> float:
        """Requests that fit."""
        return requests_that_fit(self.mix, self.instance)

    @cached_property
    def batch(self) -> float:
        """Tokens that a batch holds at most."""
        return min(self.instance.M_total, self.instance.token_budget)

    @property
    def computes_prompts(self) -> bool:
        """Whether arrivals make the batches longer that they come in: prompts come computed."""
        return False

    def closure(
        self,
        rate: float,
        dispersion: float,
        oldest: float = math.inf,
        arriving: float | None = None,
    ) -> WorkClosure:
        """Return the closure at an arrival ``rate`` [requests/time], see :func:`work_closure`."""
        return work_closure(
            self.mix, self.instance, rate, dispersion, oldest if oldest < math.inf else None
        )

    def labels(
        self, rate: float, dispersion: float, *, given_times: bool = False
    ) -> tuple[str, ...]:
        """Return the caveats of an answer."""
        return work_labels(self.mix, self.instance, rate, dispersion, given_times=given_times)

    def arrivals(self, node: Node, flow: NDArray[np.float64], count: int) -> Arrivals:
        """Return about ``count`` weighted arrivals of a ``flow`` (K + 1,) by level met."""
        return samples_of(node, self.instance, flow, count)

    def beyond_batch(self, closure: WorkClosure) -> float:
        """Return the work of those whom memory takes in beyond a saturated batch."""
        return beyond_batch(closure, self.instance)
