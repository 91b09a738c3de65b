"""Steady state by the engine: long runs without their start, replicated on common draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import LatencySamples, SolveError
from studies.question import Question
from studies.tuning.slo import Slo

WARM_UP = 0.1
"""Share of the requests, the first to arrive, whose latencies are not counted."""

SWAMPED = 0.2
"""Share of the requests not completed at the last arrival from which a run is not drained."""

BACKLOG_GROWTH = "backlog_growth"
"""Name of the objective that every run has: requests by which the backlog grows, per arrival after
the warm-up."""

MOST_GROWTH = 0.004
"""Largest growth of the backlog [requests per arrival] of a steady run. At capacity itself the
backlog of N requests grows by about sqrt(N) for chance alone: .1 % of a million."""

GROWTH_SCALE = 0.01
"""Growth of the backlog [requests per arrival] that counts as a margin of 1. In percent, growth is
no smaller a matter than the log of a latency."""

CLEAR_LATENCY = math.log(2)
"""Margin of a latency, either way, from which one replication decides. Others are repeated."""

CLEAR_GROWTH = 5.0
"""Margin of the growth from which one replication decides that the backlog grows."""

LEAST_VERDICT = 3
"""Replications from which their spread may decide."""

MOST_MARGIN = 20.0
"""Largest margin that counts, either way, so that infinite ones can be averaged."""

LOOKS = 1000
"""Times of a run, evenly up to the last arrival, at which the swapped requests are counted."""

PARTS = 4
"""Successive parts of a run whose spread says how noisy the run is."""


@dataclass(frozen=True, slots=True)
class SteadyRun:
    """One run of the engine under a steady stream.

    Parameters
    ----------
    run
        What happened, up to the last arrival at least.
    is_swamped
        Whether so many requests were in the system at the last arrival that latencies say nothing.
    first
        Row of the first request after the warm-up.
    """

    run: discrete.Run
    is_swamped: bool
    first: int

    @property
    def samples(self) -> LatencySamples:
        """Latencies of the requests after the warm-up [time]."""
        return self.run.samples(self.first)

    @property
    def most_swapped(self) -> float:
        """Most requests that were seen swapped out at once."""
        return float(self.run.trajectory().outputs["swapped"].max())


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run says of its objectives.

    Parameters
    ----------
    values
        Each objective's statistic, in the unit of its name, and the backlog's growth; NaN where
        the run was too overloaded to have one.
    margins
        Log of each statistic over its limit, and growth beyond :data:`MOST_GROWTH` in units of
        :data:`GROWTH_SCALE`: positive where missed.
    settled
        Whether the backlog is too small, at both ends, to be on its way to growing.
    parts
        Margins of each latency in :data:`PARTS` successive parts of the run: how noisy it is.
    most_swapped
        Most requests that were seen swapped out at once.
    """

    values: Mapping[str, float]
    margins: Mapping[str, float]
    settled: bool = True
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    most_swapped: float = 0.0


def run_steadily(
    question: Question,
    requests: int,
    replication: int,
    *,
    drain: bool = True,
    record_batches: bool = False,
) -> SteadyRun:
    """Run one replication of a steady stream.

    A replication draws the same arrivals, in the clock of expected arrivals, and the same lengths
    at every value of a knob: common random numbers.

    Parameters
    ----------
    question
        Stream and instance, whatever its length.
    requests
        Length of the run.
    replication
        Number of the draw, from 0 on.
    drain
        Go on after the last arrival until every request has finished, if the run is not swamped.
    record_batches
        Keep what inter-token latencies need.
    """
    table = question.of_requests(requests).replication(replication)
    assert table is not None  # a draw of so many requests has them
    last = float(table.arrival_time[-1])
    engine = discrete.engine_for(
        table,
        question.instance,
        seed=question.seed + replication,
        record_batches=record_batches,
        sample_times=np.linspace(0.0, last, LOOKS),
    )
    engine.advance(until=last)
    is_swamped = requests - engine.progress.completed > SWAMPED * requests
    if drain and not is_swamped:
        engine.advance()
    return SteadyRun(engine.run(), is_swamped, int(WARM_UP * requests))


def measure(
    question: Question, slos: Sequence[Slo], requests: int, replication: int
) -> Measurement:
    """Run one replication of so many requests and measure what comes after the warm-up.

    Raises
    ------
    SolveError
        If no request of the run has a latency that an objective is about.
    """
    steady = run_steadily(
        question,
        requests,
        replication,
        drain=bool(slos),
        record_batches=any(slo.latency == "itl" for slo in slos),
    )
    run = steady.run
    growth, settled = growth_of(
        run.table.arrival_time, run.requests["completion_time"], steady.first,
        question.stream.shape.period,
    )  # fmt: skip
    values = {BACKLOG_GROWTH: growth}
    margins = {BACKLOG_GROWTH: (growth - MOST_GROWTH) / GROWTH_SCALE}
    parts = {}
    if slos and not steady.is_swamped:
        samples = steady.samples
        measured = {slo: _statistic(slo, samples, requests) for slo in slos}
        values |= {slo.name: slo.told(value) for slo, value in measured.items()}
        margins |= {str(slo): slo.margin(value) for slo, value in measured.items()}
        parts = {str(slo): margins_in_parts(slo, samples) for slo in slos}
    for slo in slos:  # where the run was swamped
        values.setdefault(slo.name, math.nan)
        margins.setdefault(str(slo), math.inf)
    return Measurement(values, margins, settled, parts, steady.most_swapped)


def _statistic(slo: Slo, samples: LatencySamples, requests: int) -> float:
    """Return an objective's statistic [time] in a run that was not swamped.

    Raises
    ------
    SolveError
        If no request of the run has the latency: then it neither meets nor misses the objective.
    """
    value = slo.measured(samples)
    if math.isnan(value):
        raise SolveError(
            "tune", "undefined",
            f"{slo}: none of the {samples.weight.size} requests that a run of {requests} counts "
            f"has a {slo.latency}; longer runs may hold one",
        )  # fmt: skip
    return value


def growth_of(
    arrival: NDArray[np.float64],
    completion: NDArray[np.float64],
    first: int,
    period: float | None,
) -> tuple[float, bool]:
    """Return the growth of the backlog per arrival, and whether the backlog is settled.

    Parameters
    ----------
    arrival, completion : shape (R,) [time]
        Of each request, in order of arrival; NaN where it did not complete.
    first
        Row of the first request after the warm-up.
    period : [time]
        Of the rate; None for a constant one.
    """
    end = float(arrival[-1])
    begin = _same_phase(period, float(arrival[first]), end)
    arrivals = int((arrival > begin).sum())
    before, after = (
        int((arrival <= time).sum() - (completion <= time).sum()) for time in (begin, end)
    )
    settled = max(before, after) < 0.5 * MOST_GROWTH * arrivals
    return (after - before) / max(arrivals, 1), settled


def margins_in_parts(slo: Slo, samples: LatencySamples) -> NDArray[np.float64]:
    """Return the margin in each part of a run, whose requests are in order of arrival."""
    if slo.latency == "itl":
        return np.empty(0)
    parts = np.array_split(getattr(samples, slo.latency), PARTS)
    return np.array([slo.margin(slo.statistic_of(part[np.isfinite(part)])) for part in parts])


def _same_phase(period: float | None, begin: float, end: float) -> float:
    """Return ``begin``, or a little later where it is whole periods of the rate before ``end``."""
    if not period or end - begin < period:
        return begin
    return end - math.floor((end - begin) / period) * period


@dataclass(slots=True)
class Point:
    """A value of the knob at one run length, and what its replications said.

    Parameters
    ----------
    value
        Value of the knob.
    requests
        Length of each run.
    measurements
        What each replication said, in order.
    """

    value: float
    requests: int
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def replications(self) -> int:
        """Number of replications so far."""
        return len(self.measurements)

    def margins(self, name: str) -> np.ndarray:
        """Return the margin of one objective in each replication, shape (R,)."""
        each = np.array([one.margins[name] for one in self.measurements])
        return np.clip(each, -MOST_MARGIN, MOST_MARGIN)

    @property
    def binding(self) -> str:
        """The objective that is nearest to being missed, or missed most.

        A backlog that does not grow never binds beside latencies: its margin tells no distance.
        """
        names = list(self.measurements[0].margins)
        if len(names) > 1 and self.margins(BACKLOG_GROWTH).mean() <= 0:
            names.remove(BACKLOG_GROWTH)
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
    def most_swapped(self) -> float:
        """Most requests that a replication had swapped out at once."""
        return max(each.most_swapped for each in self.measurements)

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
            Confidence, on both sides, of Student's t over replications, for every objective that
            decides.
        """
        verdicts = [self._verdict(name, confidence) for name in self.measurements[0].margins]
        return False in verdicts or None not in verdicts

    def _verdict(self, name: str, confidence: float) -> bool | None:
        """Return whether one objective is met; None where it might go either way."""
        from scipy.stats import t

        margins = self.margins(name)
        mean, count = float(margins.mean()), margins.size
        if name == BACKLOG_GROWTH:
            alone = mean > CLEAR_GROWTH or all(each.settled for each in self.measurements)
        else:
            alone = abs(mean) > CLEAR_LATENCY
        if alone:
            return mean <= 0
        if count < LEAST_VERDICT:
            return None
        error = float(margins.std(ddof=1)) / math.sqrt(count)
        clear = abs(mean) > float(t.ppf(0.5 + confidence / 2, count - 1)) * error
        return mean <= 0 if clear else None

    def values(self) -> dict[str, float]:
        """Return the mean of each statistic over replications."""
        names = self.measurements[0].values
        return {name: float(np.mean([m.values[name] for m in self.measurements])) for name in names}
