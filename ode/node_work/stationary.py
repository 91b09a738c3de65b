"""One node in equilibrium: latencies at a constant arrival rate below capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode._caveats import policy_labels
from ode.error_model.report import READ_AS, ErrorReport, error_report
from ode.node_work.forward import equilibrium
from ode.node_work.generator import BUSY, Levels, generator, grid_of, levels_of
from ode.node_work.latencies import Node, met_by_arrivals, node_of
from ode.node_work.model import DecodeNodeModel, NodeModel
from serving import (
    LATENCIES,
    DecodeNode,
    Distribution,
    LatencySamples,
    RequestMix,
    SolveError,
    answers,
)

MODELLED = tuple(name for name in LATENCIES if name != "itl")
SAMPLES = 2048
"""Latency samples of an equilibrium, about."""

STEPS_PER_SET = 32
"""Resolution of the levels: coarser than over time, for speed."""

HIGHEST = 30.0
"""Mean excess works up to which levels go: exp(-30) of the arrivals meet more."""


@dataclass(frozen=True, eq=False)
class Stationary:
    """A node in equilibrium.

    Parameters
    ----------
    rate : [requests/time]
        Arrival rate.
    load
        Over the capacity lambda_M.
    level, probability : shape (K,) [token-iterations, 1]
        Work in system that arrivals meet, an idle node first.
    waits
        Share of arrivals that wait for room.
    batch_tokens, batch_time : [tokens, time]
        Mean over time while the node is busy.
    labels
        Caveats.
    expects
        What yields the expected error of latencies when asked.
    """

    rate: float
    load: float
    level: NDArray[np.float64]
    probability: NDArray[np.float64]
    waits: float
    batch_tokens: float
    batch_time: float
    labels: tuple[str, ...]
    _node: Node
    _model: NodeModel
    _count: int
    expects: Callable[[Mapping[str, Distribution]], ErrorReport] | None = None

    @cached_property
    def samples(self) -> LatencySamples:
        """Weighted latencies of arrivals."""
        return self._model.arrivals(self._node, self.probability, self._count).samples

    @cached_property
    def error(self) -> ErrorReport:
        """How far the latencies are expected to be from the engine's mean, and how surely."""
        if self.expects is None:
            return ErrorReport(reason="expected errors belong to results of ode.stationary")
        return self.expects(self.latencies)

    @cached_property
    def latencies(self) -> Mapping[str, Distribution]:
        """A distribution for each latency; inter-token latency is not part of this model."""
        return Distributions(self.samples, MODELLED)


class Distributions(Mapping[str, Distribution]):
    """Distributions of latencies by name, each made when it is first asked for."""

    def __init__(self, samples: LatencySamples, names: tuple[str, ...]) -> None:
        self._samples, self._names = samples, names
        self._known: dict[str, Distribution] = {}

    def __getitem__(self, name: str) -> Distribution:
        if name not in self._known:
            if name not in self._names:
                raise KeyError(name)
            self._known[name] = Distribution.of(*self._samples.of(name))
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@answers("decode_node")
def stationary(
    mix: RequestMix,
    instance: DecodeNode,
    arrival_rate: float,
    *,
    dispersion: float = 1.0,
    approximate: bool = False,
    samples: int = SAMPLES,
) -> Stationary:
    """Return the equilibrium of one node under steady arrivals.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    arrival_rate : [requests/time]
        Below capacity.
    dispersion
        Variance of the number of arrivals in a long time over its mean: 1 for Poisson arrivals, the
        squared CV of the gaps for renewals.
    approximate
        Read policies that are not modelled as FCFS and LIFO, with a label.
    samples
        Quasi-random latencies behind the percentiles; more where small differences matter.

    Raises
    ------
    SolveError
        If the node has no equilibrium at this rate (status ``overload``).
    UnsupportedError
        For a policy that is not modelled.
    """
    labels = read_as = policy_labels(instance, approximate=approximate)
    model = DecodeNodeModel(mix, instance)
    found = balance(model, arrival_rate, dispersion)
    closure, levels, law, met = found.closure, found.levels, found.law, found.met
    labels += model.labels(arrival_rate, dispersion)
    busy = law[BUSY].sum()
    return Stationary(
        rate=arrival_rate,
        load=arrival_rate / closure.saturation.throughput,
        level=levels.work,
        probability=met,
        waits=float(met @ levels.full),
        batch_tokens=float(law[BUSY] @ levels.batch[BUSY].mean(axis=1) / busy),
        batch_time=float(law[BUSY] @ levels.batch_time[BUSY] / busy),
        labels=labels,
        _node=found.node,
        _model=model,
        _count=samples,
        expects=partial(
            error_report, "stationary", mix=mix, instance=instance, rate=arrival_rate,
            dispersion=dispersion, unlike=READ_AS if read_as else None,
        ),
    )  # fmt: skip


class Balance(NamedTuple):
    """The law of the work in system that arrivals neither raise nor lower.

    Parameters
    ----------
    closure, levels, node
        What the node does, what it does at levels of V, and what latencies depend on.
    law, met : shape (K + 1,)
        Law of V over time, and as arrivals meet it.
    """

    closure: WorkClosure
    levels: Levels
    node: Node
    law: NDArray[np.float64]
    met: NDArray[np.float64]


def balance(model: NodeModel, rate: float, dispersion: float) -> Balance:
    """Return the equilibrium of a node at an arrival ``rate`` [requests/time].

    Raises
    ------
    SolveError
        If the node has none at this rate (status ``overload``).
    """
    closure = model.closure(rate, dispersion)
    full = closure.saturation
    if not 0 < rate < full.throughput:
        raise SolveError(
            "stationary",
            "overload",
            f"the arrival rate {rate:g} is not between 0 and the capacity "
            f"{full.throughput:g}: queues have no equilibrium",
        )
    # light-tailed beyond a saturated set: decay of exp(-2 drift v / variance) or faster
    spare = closure.fastest - rate * closure.work.mean
    excess = rate * closure.variance / (2 * spare)
    highest = min(closure.reach, 4 * closure.set_mean + HIGHEST * excess)
    work, uniform = grid_of(closure, highest, steps=STEPS_PER_SET)
    levels = levels_of(closure, work, uniform)
    band, below = generator(levels, closure, rate)
    law = equilibrium(band, below)
    met = met_by_arrivals(closure, work, law)
    return Balance(closure, levels, node_of(closure, levels, met), law, met)
