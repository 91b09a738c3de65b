"""Arrival rate over time, carried as its cumulative curve."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import checked
from serving.errors import WorkloadError

MOST_KNOTS = 50_000_000
"""Of a curve that is drawn from a shape: 800 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class RateProfile:
    """Expected arrivals by time t, a non-decreasing piecewise-linear curve.

    A jump (two knots at one time) is a simultaneous burst; a trace's own curve jumps by one at
    each arrival. The curve is flat after its last knot.

    Parameters
    ----------
    time : shape (K,) [time]
        Knots, non-decreasing, starting at 0.
    cumulative : shape (K,) [requests]
        Expected arrivals up to and including each knot, non-decreasing.
    dispersion
        How arrivals scatter about the curve: the variance of their number in a long time over its
        mean. 1 for Poisson arrivals, the squared CV of the gaps for renewals, 0 where the curve is
        the arrivals themselves.

    Raises
    ------
    WorkloadError
        If the knots are not finite, not ordered, or of unequal length, or the dispersion is not a
        finite number >= 0.
    """

    time: NDArray[np.float64]
    cumulative: NDArray[np.float64]
    dispersion: float = 1.0

    def __post_init__(self) -> None:
        try:
            time = np.ascontiguousarray(self.time, dtype=np.float64)
            cumulative = np.ascontiguousarray(self.cumulative, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            raise WorkloadError("a rate profile needs two arrays of numbers") from None
        if time.ndim != 1 or time.shape != cumulative.shape or time.size < 2:
            raise WorkloadError("a rate profile needs two arrays of equal length >= 2")
        if not (np.isfinite(time).all() and np.isfinite(cumulative).all()):
            raise WorkloadError("a rate profile must be finite (a rate is NaN or infinite)")
        if time[0] != 0 or (np.diff(time) < 0).any():
            raise WorkloadError("the knots of a rate profile start at 0 and never decrease")
        if cumulative[0] < 0 or (np.diff(cumulative) < 0).any():
            raise WorkloadError("a rate is negative; allowed: >= 0")
        if not 0 <= self.dispersion < np.inf:
            raise WorkloadError(
                f"the dispersion of arrivals is {self.dispersion}; allowed: a finite number >= 0"
            )
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "cumulative", cumulative)

    @classmethod
    @checked(rate="any", horizon="any")
    def constant(cls, rate: float, horizon: float) -> RateProfile:
        """Return a constant ``rate`` [requests/time] on [0, horizon]."""
        return cls.steps([0.0], [rate], horizon)

    @classmethod
    @checked(start="any", rate="any", horizon="any")
    def steps(cls, start: ArrayLike, rate: ArrayLike, horizon: float) -> RateProfile:
        """Return rates that hold from each start to the next, up to ``horizon``.

        Parameters
        ----------
        start : shape (K,) [time]
            First is 0, increasing, all below ``horizon``.
        rate : shape (K,) [requests/time]
        """
        if np.shape(start) != np.shape(rate):
            raise WorkloadError("the steps of a rate need as many starts as rates")
        edges = np.append(np.asarray(start, float), float(horizon))
        counts = np.asarray(rate, float) * np.diff(edges)
        return cls(edges, np.append(0.0, np.cumsum(counts)))

    @classmethod
    @checked(time="any", rate="any")
    def from_rate(cls, time: ArrayLike, rate: ArrayLike) -> RateProfile:
        """Return the profile whose rate is linear between samples (trapezoidal cumulative)."""
        time, rate = np.asarray(time, float), np.asarray(rate, float)
        area = 0.5 * (rate[1:] + rate[:-1]) * np.diff(time)
        return cls(time, np.append(0.0, np.cumsum(area)))

    @classmethod
    @checked(period="> 0", horizon="> 0", points=">= 2")
    def sine(
        cls, mean: float, amplitude: float, period: float, horizon: float, points: int = 64
    ) -> RateProfile:
        """Return ``mean * (1 + amplitude * sin(2 pi t / period))``, ``points`` knots a period."""
        if horizon / period * points > MOST_KNOTS:
            raise WorkloadError(
                f"a sine of {horizon / period:g} periods, {points} knots each; allowed: at most "
                f"{MOST_KNOTS} knots"
            )
        knots = max(2, int(np.ceil(horizon / period * points)) + 1)
        t = np.linspace(0.0, horizon, knots)
        phase = 2 * np.pi / period
        return cls(t, mean * (t + amplitude / phase * (1 - np.cos(phase * t))))

    @classmethod
    @checked(horizon="> 0", points=">= 2")
    def ramp(cls, first: float, last: float, horizon: float, points: int = 256) -> RateProfile:
        """Return a rate that goes linearly from ``first`` to ``last`` over [0, horizon]."""
        t = np.linspace(0.0, horizon, points)
        return cls(t, first * t + (last - first) * t**2 / (2 * horizon))

    @classmethod
    @checked(arrival_time="any", horizon="any")
    def from_arrivals(cls, arrival_time: ArrayLike, horizon: float | None = None) -> RateProfile:
        """Return the cumulative curve of a trace itself: one step per arrival.

        Parameters
        ----------
        arrival_time : shape (R,) [time]
            Sorted.
        horizon
            End of the curve [time]; the last arrival by default.
        """
        t = np.asarray(arrival_time, float)
        if t.size == 0:
            raise WorkloadError("there are no arrivals")
        end = float(t[-1]) if horizon is None else float(horizon)
        count = np.arange(t.size + 1, dtype=float)
        time = np.concatenate(([0.0], np.repeat(t, 2), [max(end, float(t[-1]))]))
        return cls(time, np.repeat(count, 2), dispersion=0.0)

    @property
    def horizon(self) -> float:
        """Last knot [time]."""
        return float(self.time[-1])

    @property
    def total(self) -> float:
        """Expected arrivals in all [requests]."""
        return float(self.cumulative[-1])

    @property
    def mean_rate(self) -> float:
        """Arrivals per time over [0, horizon] [requests/time]."""
        return self.total / self.horizon

    @checked()
    def count(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return expected arrivals up to and including ``t`` [requests]."""
        t = np.asarray(t, float)
        k = np.searchsorted(self.time, t, side="right")
        before, after = np.clip(k - 1, 0, None), np.clip(k, None, self.time.size - 1)
        width = self.time[after] - self.time[before]
        share = np.where(width > 0, (t - self.time[before]) / np.where(width > 0, width, 1), 0.0)
        rise = self.cumulative[after] - self.cumulative[before]
        return np.where(k == 0, 0.0, self.cumulative[before] + share * rise)

    @checked(edges="any")
    def mean_rate_between(self, edges: ArrayLike) -> NDArray[np.float64]:
        """Return the mean rate over each interval of ``edges`` (K+1,), shape (K,)."""
        edges = np.asarray(edges, float)
        return np.diff(self.count(edges)) / np.diff(edges)

    def scatter(self, edges: ArrayLike, parts: int = 8) -> float:
        """Return the variance of the curve about straight lines between ``edges``, over its mean.

        The number of arrivals in each of ``parts`` equal pieces of an interval is compared with
        their mean: 1 on average for the times of Poisson arrivals, 0 for a curve that is straight
        from edge to edge.

        Parameters
        ----------
        edges : shape (K + 1,) [time]
        parts
            At least 2.
        """
        edges = np.asarray(edges, float)
        share = np.arange(parts + 1) / parts
        counts = np.diff(self.count(edges[:-1, None] + np.diff(edges)[:, None] * share))
        total = counts.sum()
        spread = np.sum((counts - counts.mean(axis=1, keepdims=True)) ** 2)
        return float(spread / total * parts / (parts - 1)) if total > 0 else 0.0

    @checked(factor=">= 0")
    def scaled(self, factor: float) -> RateProfile:
        """Return the profile with every rate multiplied by ``factor``."""
        return replace(self, cumulative=self.cumulative * factor)

    @checked(factor="> 0")
    def stretched(self, factor: float) -> RateProfile:
        """Return the profile with time multiplied by ``factor`` (rates divided by it)."""
        return replace(self, time=self.time * factor)
