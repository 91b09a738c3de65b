"""One server in equilibrium: latencies at a constant arrival rate below capacity, chance included.

By the work in system where that method knows the server, see :mod:`ode.prompt_server.node_work`;
otherwise by the number of requests in the system, see :mod:`ode.prompt_server.births`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from fluid.prompt_server import capacity
from ode.error_model.report import READ_AS, ErrorReport, error_report
from ode.node_work.stationary import Distributions, balance
from ode.prompt_server.births import births_and_deaths
from ode.prompt_server.labels import (
    policy_labels,
    unknown_to_node_work,
    validity_labels,
    work_labels,
)
from ode.prompt_server.node_work import ServerModel, waits_for_steps
from serving import Distribution, LatencySamples, RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer

MODELLED = ("ttft", "tpot", "e2el", "queue_delay")
"""Latencies of this model."""

BIRTHS = "births"
"""Method by the number of requests in the system."""

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
        Share of arrivals that wait for a seat or for KV.
    method
        ``node_work``, or ``births`` where that method does not know the server.
    labels
        Caveats.
    samples
        Weighted latencies of arrivals.
    expects
        What yields the expected error of latencies when asked.
    """

    rate: float
    load: float
    waits: float
    method: str
    labels: tuple[str, ...]
    samples: LatencySamples
    expects: Callable[[Mapping[str, Distribution]], ErrorReport] | None = None

    @cached_property
    def error(self) -> ErrorReport:
        """How far the latencies are expected to be from the engine's mean, and how surely."""
        if self.expects is None:
            return ErrorReport(reason="expected errors belong to results of ode.stationary")
        return self.expects(self.latencies)

    @cached_property
    def latencies(self) -> Mapping[str, Distribution]:
        """A distribution for each of :data:`MODELLED`."""
        return Distributions(self.samples, MODELLED)


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
    expects = partial(
        error_report, mix=mix, instance=instance, rate=arrival_rate, dispersion=dispersion,
        unlike=READ_AS if labels else None,
    )  # fmt: skip
    load = arrival_rate / capacity(mix, instance)
    unknown = unknown_to_node_work(mix, instance, over_time=False)
    if load >= 1 or unknown is not None:  # or has none, or bistable
        labels += validity_labels(mix, instance)
        waits, caveat, found = births_and_deaths(
            mix, instance, arrival_rate, dispersion=dispersion, samples=samples
        )
        return ServerStationary(
            arrival_rate, load, waits, BIRTHS, (*labels, caveat), found, partial(expects, BIRTHS)
        )
    model = ServerModel(mix, instance)
    found = balance(model, arrival_rate, dispersion)
    labels += work_labels(mix, instance, arrival_rate, dispersion)
    waits = 0.0 if waits_for_steps(found.closure) else float(found.met @ found.levels.full)
    latencies = model.arrivals(found.node, found.met, samples).samples
    expects = partial(expects, "stationary")
    return ServerStationary(arrival_rate, load, waits, "node_work", labels, latencies, expects)
