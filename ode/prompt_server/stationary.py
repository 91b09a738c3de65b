"""One server in equilibrium: latencies at a constant arrival rate below capacity, chance included.

By the work in system where that method knows the server, see :mod:`ode.prompt_server.node_work`;
otherwise by the number of requests in the system, see :mod:`ode.prompt_server.births`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fluid.prompt_server import capacity
from ode.node_work.stationary import balance
from ode.prompt_server.births import births_and_deaths
from ode.prompt_server.labels import (
    policy_labels,
    unknown_to_node_work,
    validity_labels,
    work_labels,
)
from ode.prompt_server.node_work import ServerModel
from serving import Distribution, LatencySamples, RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer

MODELLED = ("ttft", "tpot", "e2el", "queue_delay")
"""Latencies of this model."""

SAMPLES = 4096
"""Arrivals that stand for all."""


@dataclass(frozen=True, eq=False)
class ServerStationary:
    """A server in equilibrium.

    Parameters
    ----------
    rate : [requests/time]
        Arrival rate.
    load
        Over the capacity lambda_M.
    waits
        Share of arrivals that wait for room.
    method
        ``node_work``, or ``births`` where that method does not know the server.
    labels
        Caveats.
    samples
        Weighted latencies of arrivals.
    """

    rate: float
    load: float
    waits: float
    method: str
    labels: tuple[str, ...]
    samples: LatencySamples

    @cached_property
    def latencies(self) -> Mapping[str, Distribution]:
        """A distribution for each of :data:`MODELLED`."""
        return {name: Distribution.of(*self.samples.of(name)) for name in MODELLED}


@answers(MODEL)
def stationary(
    mix: RequestMix,
    instance: PromptServer,
    arrival_rate: float,
    *,
    dispersion: float = 1.0,
    approximate: bool = False,
    samples: int = SAMPLES,
) -> ServerStationary:
    """Return the latencies of one server in equilibrium.

    Parameters
    ----------
    mix, instance
        Lengths, and the server.
    arrival_rate : [requests/time]
        Below capacity.
    dispersion
        Variance of the number of arrivals in a long time over its mean; 1 for Poisson arrivals.
    approximate
        Read settings that are not modelled as those that are.
    samples
        Arrivals that stand for all.

    Raises
    ------
    SolveError
        If load >= 1, or an empty step takes no time.
    UnsupportedError
        For a setting that is not modelled.
    """
    labels = policy_labels(instance, approximate=approximate)
    load = arrival_rate / capacity(mix, instance)
    if load >= 1 or unknown_to_node_work(mix, instance) is not None:  # or has none, or bistable
        labels += validity_labels(mix, instance)
        waits, caveat, found = births_and_deaths(
            mix, instance, arrival_rate, dispersion=dispersion, samples=samples
        )
        return ServerStationary(arrival_rate, load, waits, "births", (*labels, caveat), found)
    model = ServerModel(mix, instance)
    found = balance(model, arrival_rate, dispersion)
    labels += work_labels(mix, instance, arrival_rate, dispersion)
    waits = float(found.met @ found.levels.full)
    latencies = model.samples(found.node, found.met, samples)
    return ServerStationary(arrival_rate, load, waits, "node_work", labels, latencies)
