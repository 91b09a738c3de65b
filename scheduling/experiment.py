"""Policies side by side: the same requests, at several loads and from several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from scheduling.drift import Beliefs
from scheduling.fleet_run import FleetRun
from scheduling.policies import listens, needs_predictor, policy_of
from scheduling.post import Faults
from scheduling.predictor import Predictor
from scheduling.routing import route
from scheduling.seldom import SeldomToldPredictor
from scheduling.signals import Signals
from serving import ConfigError, Instance, LatencySamples, RequestTable, UnsupportedError
from serving.arguments import check_fields
from studies.question import Question
from studies.tuning import Slo

WARM_UP = 0.1
"""Share of the requests of a run, its first ones, that no latency counts."""

MEASURES = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el", "mean_tpot")
"""Latencies that are told of every run [time]."""

LOADS = (0.02, 1.5)
"""Loads between which a capacity is sought."""

EXACT = 0.005
"""Relative width of a capacity."""


@dataclass(frozen=True, eq=False)
class Routing:
    """Requests, a fleet, and the policies that are compared.

    Parameters
    ----------
    question
        The requests, of any rate; its replications are the seeds.
    instances
        The fleet.
    policies
        Names of policies; see :func:`scheduling.route`.
    loads
        Arrivals over what all instances together can serve.
    seeds
        Replications of the requests, each the same for all policies.
    signals, decision_time, predicted_lengths
        As of :func:`scheduling.route`.
    faults
        What happens to reports of batches on their way, drawn anew from every seed.
    goodput
        Thresholds [time] by latency; a request that meets all is good.

    Raises
    ------
    ConfigError
        If a policy does not exist, or stands there twice, or faults happen to reports to which no
        policy listens.
    UnsupportedError
        If no fluid model knows what an instance can serve, or makes forecasts for a policy that
        asks them.
    """

    question: Question
    instances: tuple[Instance, ...]
    policies: tuple[str, ...]
    loads: tuple[float, ...]
    seeds: int = 5
    signals: Signals = field(default_factory=Signals)
    decision_time: float = 0.0
    predicted_lengths: bool = False
    faults: Faults = field(default_factory=Faults)
    goodput: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_fields(self, seeds="> 0", decision_time=">= 0")
        if not self.instances:
            raise ConfigError("instances", 0, "at least one")
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ConfigError("policies", ",".join(self.policies), "different ones, at least one")
        if not self.loads or len(set(self.loads)) < len(self.loads):
            raise ConfigError("loads", list(self.loads), "different ones, at least one")
        for name in self.policies:
            policy_of(name, 0)
        if self.faults.share and self.signals.period == math.inf:
            raise ConfigError("faults", self.faults.share, "0 where nothing is ever reported")
        if self.faults.share and not any(map(listens, self.policies)):
            raise ConfigError("faults", self.faults.share, "0 where no policy listens to reports")
        if not all(0 < each < math.inf for each in self.capacities):
            raise UnsupportedError("no fluid model knows what the instances can serve")
        if any(map(needs_predictor, self.policies)):
            self.predictor()

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what they imply is worked out anew elsewhere."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @cached_property
    def capacities(self) -> tuple[float, ...]:
        """What each instance can serve of these requests [requests/time]."""
        known = {each: self.question.on(each).capacity for each in dict.fromkeys(self.instances)}
        return tuple(known[each] for each in self.instances)

    @property
    def points(self) -> list[tuple[float, int, str]]:
        """Load, seed and policy of every run."""
        return [
            (load, seed, policy)
            for load in self.loads
            for seed in range(self.seeds)
            for policy in self.policies
        ]

    def requests(self, load: float, seed: int) -> RequestTable:
        """Return the requests of a seed at a load, the same for every policy."""
        asked = self.question.at_rate(load * sum(self.capacities))
        table = asked.replication(seed)
        if table is None:
            raise ConfigError("horizon", self.question.horizon, "long enough for a request")
        return table

    def run(self, load: float, seed: int, policy: str) -> FleetRun:
        """Return a run of the fleet, warm-up included."""
        return self.watched(load, seed, policy)[0]

    def watched(self, load: float, seed: int, policy: str) -> tuple[FleetRun, Beliefs | None]:
        """Return a run of the fleet, and what was believed in it where a predictor was asked."""
        predictor = self.predictor() if needs_predictor(policy) else None
        beliefs = None if predictor is None else Beliefs(predictor)
        run = route(
            self.requests(load, seed),
            self.instances,
            policy,
            signals=self.signals,
            decision_time=self.decision_time,
            capacity=self.capacities,
            predicted_lengths=self.predicted_lengths,
            slo=self._promised(),
            predictor=predictor,
            listeners=() if beliefs is None else (beliefs,),
            faults=replace(self.faults, seed=seed),
            seed=seed,
        )
        return run, beliefs

    def latencies(self, load: float, seed: int, policy: str) -> LatencySamples:
        """Return the latencies of a run after the warm-up."""
        run = self.run(load, seed, policy)
        return run.after(warm_up(run))

    def predictor(self) -> Predictor:
        """Return a predictor that expects the mix of the requests and has heard of none yet."""
        kind = SeldomToldPredictor if self.signals.period else Predictor
        return kind(self.instances, self.question.mix, signal_delay=self.signals.delay)

    def _promised(self) -> tuple[float | None, float | None]:
        limits = self.goodput or {}
        return limits.get("ttft"), limits.get("e2el")


def warm_up(run: FleetRun) -> int:
    """Return how many requests at the beginning of a run no latency counts."""
    return int(WARM_UP * len(run.requests))


def row_of(routing: Routing, point: tuple[float, int, str]) -> dict[str, Any]:
    """Return what came out of one run.

    Its latencies [time], its share of good requests, and where a predictor was asked how reports
    came in and how far its belief was off, see :class:`scheduling.drift.Beliefs`.
    """
    run, beliefs = routing.watched(*point)
    first = warm_up(run)
    of, lasts = run.after(first), float(np.ptp(run.requests.arrival_time[first:]))
    done = np.isfinite(of.e2el)
    row: dict[str, Any] = {
        "load": point[0],
        "seed": point[1],
        "policy": point[2],
        "requests": int(done.sum()),
        "predictions": run.predictions.asked,
        "failed_predictions": run.predictions.failed,
    }
    for name in MEASURES:
        statistic, _, latency = name.partition("_")
        values = getattr(of, latency)
        values = values[np.isfinite(values)]
        found = values.mean() if statistic == "mean" else np.percentile(values, 99)
        row[name] = float(found) if values.size else None
    if routing.goodput:
        good = done.copy()
        for name, limit in routing.goodput.items():
            good &= ~(getattr(of, name) > limit)
        row["good_share"] = float(good.mean())
        row["goodput"] = float(good.sum() / lasts) if lasts > 0 else None
    return row if beliefs is None else row | beliefs.row(run, first)


def capacity_of(
    routing: Routing,
    point: tuple[str, Slo],
    loads: tuple[float, float] = LOADS,
    exact: float = EXACT,
) -> dict[str, Any]:
    """Return the largest load at which a policy meets an objective, found by bisection.

    The objective is to hold for the mean of the statistic over the seeds. Every load is judged by
    requests of the same seeds.

    Parameters
    ----------
    routing, point
        The experiment; policy and objective.
    loads, exact
        Between which the load is sought, and the relative width of the answer.

    Returns
    -------
    dict
        ``load`` and ``rate`` [requests/time], None where not even the lowest load meets it, the
        highest load where all do, and ``runs``.
    """
    policy, slo = point
    runs = 0

    def meets(load: float) -> bool:
        nonlocal runs
        runs += routing.seeds
        values = [
            slo.measured(routing.latencies(load, seed, policy))
            for seed in range(routing.seeds)
        ]  # fmt: skip
        return bool(np.mean(values) < slo.limit)

    low, high = loads
    found: float | None
    if not meets(low):
        found = None
    elif meets(high):
        found = high
    else:
        while high - low > exact * low:
            middle = (low + high) / 2
            low, high = (middle, high) if meets(middle) else (low, middle)
        found = low
    rate = None if found is None else found * sum(routing.capacities)
    return {"policy": policy, "slo": str(slo), "load": found, "rate": rate, "runs": runs}


def answer_of(routing: Routing, point: tuple[Any, ...]) -> dict[str, Any]:
    """Return the row of a run, or the capacity that a point ``(policy, slo)`` asks for."""
    if len(point) == 2:
        return capacity_of(routing, (point[0], point[1]))
    return row_of(routing, (point[0], point[1], point[2]))
