"""Steady state by the engine: long runs without their start, replicated on common draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import LatencySamples
from studies.tuning.knobs import Operation
from studies.tuning.slo import Slo

WARM_UP = 0.1
"""Share of the requests, the first to arrive, whose latencies are not counted."""

GROWTH = "backlog_growth"
"""Requests that the backlog grows by, per arrival after the warm-up."""

MOST_GROWTH, GROWTH_SCALE = 0.004, 0.01
"""Growth from which a run is not steady. At capacity itself the backlog of a run of N requests
grows by about sqrt(N) for chance alone: .1 % at a million requests. Its margin counts in percent,
so that it is no smaller a matter than the log of a latency."""

CLEAR, CLEAR_GROWTH = math.log(2), 5.0
"""Margins, of a latency and of growth, from which one replication decides; others are repeated."""

PARTS = 4

HOPELESS = 0.2
"""Share of the requests not completed at the last arrival from which a run is not drained."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run says of its objectives.

    Parameters
    ----------
    values
        Each objective's statistic [time] and the backlog's growth, by name; NaN where the run
        was too overloaded to have one.
    margins
        Log of each statistic over its limit, and growth beyond what is allowed in percent:
        positive where missed.
    settled
        Whether the backlog is too small, at both ends, to be on its way to growing.
    parts
        Margins of each latency in :data:`PARTS` successive parts of the run: how noisy it is.
    """

    values: Mapping[str, float]
    margins: Mapping[str, float]
    settled: bool = True
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def measure(
    operation: Operation, slos: Sequence[Slo], requests: int, replication: int, seed: int
) -> Measurement:
    """Run ``requests`` requests and measure what comes after the warm-up.

    Replication r draws the same arrivals, in the clock of expected arrivals, and the same lengths
    at every value of a knob: common random numbers.
    """
    child = np.random.SeedSequence(seed, spawn_key=(replication,))
    table = operation.workload.sample(child, num_requests=requests)
    engine = discrete.engine_for(
        table,
        operation.instance,
        seed=seed + replication,
        record_batches=any(slo.latency == "itl" for slo in slos),
    )
    first = int(WARM_UP * requests)
    last_arrival = float(table.arrival_time[-1])
    engine.advance(until=last_arrival)
    hopeless = requests - engine.progress.completed > HOPELESS * requests
    if slos and not hopeless:
        engine.advance()
    run = engine.run()
    begin = _same_phase(operation, float(table.arrival_time[first]), last_arrival)
    arrivals = int((table.arrival_time > begin).sum())
    before, after = _backlogs(run, begin, last_arrival)
    growth = (after - before) / max(arrivals, 1)
    settled = max(before, after) < 0.5 * MOST_GROWTH * arrivals
    values, margins = {GROWTH: growth}, {GROWTH: (growth - MOST_GROWTH) / GROWTH_SCALE}
    parts = {}
    if slos and not hopeless:
        samples = run.samples(first)
        values |= {slo.name: slo.measured(samples) for slo in slos}
        parts = {str(slo): _margins_in_parts(slo, samples) for slo in slos}
    for slo in slos:
        values.setdefault(slo.name, math.nan)
        margins[str(slo)] = slo.margin(values[slo.name])
    return Measurement(values, margins, settled, parts)


def _margins_in_parts(slo: Slo, samples: LatencySamples) -> NDArray[np.float64]:
    """Return the margin in each part of a run, whose requests are in order of arrival."""
    if slo.latency == "itl":
        return np.empty(0)
    parts = np.array_split(getattr(samples, slo.latency), PARTS)
    return np.array([slo.margin(slo.statistic_of(part[np.isfinite(part)])) for part in parts])


def _same_phase(operation: Operation, begin: float, end: float) -> float:
    """Return ``begin``, or a little later where it is whole periods of the rate before ``end``."""
    period = getattr(operation.workload.shape, "period", None)
    if not period or end - begin < period:
        return begin
    return end - math.floor((end - begin) / period) * period


def _backlogs(run: discrete.Run, *times: float) -> list[int]:
    """Return the requests that have arrived and not completed at each time."""
    arrived, completed = run.table.arrival_time, run.requests["completion_time"]
    return [int((arrived <= time).sum() - (completed <= time).sum()) for time in times]


@dataclass(slots=True)
class Point:
    """A value of the knob at one run length, and what its replications said.

    Parameters
    ----------
    value
        Of the knob.
    requests
        Of each run.
    measurements
        One per replication, in order.
    """

    value: float
    requests: int
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def replications(self) -> int:
        """How many there are."""
        return len(self.measurements)

    def margins(self, name: str) -> np.ndarray:
        """Return the margin of one objective in each replication, kept within +-20."""
        each = np.array([one.margins[name] for one in self.measurements])
        return np.clip(each, -20.0, 20.0)

    @property
    def binding(self) -> str:
        """The objective that is nearest to being missed, or missed most.

        A backlog that does not grow has no say beside latencies: its margin tells no distance.
        """
        names = list(self.measurements[0].margins)
        if len(names) > 1 and self.margins(GROWTH).mean() <= 0:
            names.remove(GROWTH)
        return max(names, key=lambda name: self.margins(name).mean())

    @property
    def margin(self) -> float:
        """Mean margin of the binding objective."""
        return float(self.margins(self.binding).mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the binding margin over replications; NaN for one."""
        return float(self.margins(self.binding).std(ddof=1)) if self.replications > 1 else math.nan

    @property
    def noise(self) -> float:
        """Standard deviation of the binding margin of one run, by replications or by parts.

        The larger of the two: of three replications alone it would often be far too small.
        """
        parts = [m.parts.get(self.binding, np.empty(0)) for m in self.measurements]
        parts = [each for each in parts if each.size > 1 and np.isfinite(each).all()]
        if not parts:
            return self.spread
        within = math.sqrt(float(np.mean([each.var(ddof=1) / each.size for each in parts])))
        return within if math.isnan(self.spread) else max(within, self.spread)

    @property
    def met(self) -> bool:
        """Whether the mean margin of every objective is at most 0."""
        return all(self.margins(name).mean() <= 0 for name in self.measurements[0].margins)

    def certain(self, confidence: float) -> bool:
        """Return whether the verdict would be the same for most sets of replications.

        Parameters
        ----------
        confidence
            Two-sided, of Student's t over replications, for every objective that decides.
        """
        verdicts = [self._verdict(name, confidence) for name in self.measurements[0].margins]
        return False in verdicts or None not in verdicts

    def _verdict(self, name: str, confidence: float) -> bool | None:
        """Return whether one objective is met; None where it might go either way."""
        from scipy.stats import t

        margins = self.margins(name)
        mean, count = float(margins.mean()), margins.size
        if name == GROWTH:
            alone = mean > CLEAR_GROWTH or all(each.settled for each in self.measurements)
        else:
            alone = abs(mean) > CLEAR
        if alone:
            return mean <= 0
        if count < 3:
            return None
        error = float(margins.std(ddof=1)) / math.sqrt(count)
        clear = abs(mean) > float(t.ppf(0.5 + confidence / 2, count - 1)) * error
        return mean <= 0 if clear else None

    def values(self) -> dict[str, float]:
        """Return the mean of each statistic over replications."""
        names = self.measurements[0].values
        return {name: float(np.mean([m.values[name] for m in self.measurements])) for name in names}
