"""Serving metrics, one object for requests that were simulated and flows that were solved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import checked
from serving.errors import ConfigError, FluidServeError, UnsupportedError
from serving.totals import TOTALS, checked_totals

LATENCIES = ("ttft", "tpot", "itl", "e2el", "queue_delay")
"""Time to first token; time per output token after the first; inter-token latency; end-to-end
latency; arrival to first admission."""

PER_REQUEST_LATENCIES = ("ttft", "tpot", "e2el", "queue_delay")
"""Those of which a request has one, so that it can meet a threshold or miss it."""

BETWEEN_TOKENS = ("tpot", "itl")
"""Those that only a request with two tokens or more has."""

PERCENTILES = (50, 90, 95, 99)
EMPTY: NDArray[np.float64] = np.empty(0)


def check_defined(latencies: Iterable[str], longest_decode: int) -> None:
    """Refuse an objective or a threshold on a latency that no request has.

    Parameters
    ----------
    latencies
        Names of those it is about.
    longest_decode : [tokens]
        Of all requests.

    Raises
    ------
    UnsupportedError
        If every request decodes one token and a latency is between tokens.
    """
    for name in latencies:
        if name in BETWEEN_TOKENS and longest_decode < 2:
            raise UnsupportedError(
                f"{name} is not defined here: every request decodes one token, and {name} is the "
                "time between a request's tokens; name ttft, e2el or queue_delay"
            )


@dataclass(frozen=True, slots=True, eq=False)
class LatencySamples:
    """Latencies with weights: a request weighs 1, a flow element its mass.

    Parameters
    ----------
    queue_delay, ttft, tpot, e2el, weight : shape (S,) [time; weight in requests]
        ``tpot`` is NaN where D = 1.
    itl, itl_weight : shape (I,) [time; weight in tokens]
        Empty where inter-token latencies were not recorded. Weights may be whole numbers by their
        type; see :func:`weighted_percentile`.
    """

    queue_delay: NDArray[np.float64]
    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]
    e2el: NDArray[np.float64]
    weight: NDArray[np.float64]
    itl: NDArray[np.float64] = field(default_factory=lambda: EMPTY)
    itl_weight: NDArray[np.float64] = field(default_factory=lambda: EMPTY)

    @checked()
    def of(self, latency: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return values and weights of one of :data:`LATENCIES`, without the undefined."""
        if latency not in LATENCIES:
            raise ConfigError("latency", latency, " | ".join(LATENCIES))
        values = getattr(self, latency)
        weight = self.itl_weight if latency == "itl" else self.weight
        defined = np.isfinite(values)
        return values[defined], weight[defined]


def latency_scale(time_unit: str) -> tuple[str, float]:
    """Return the end of the name of a latency in JSON, and the factor to its unit.

    Latencies are in ms, and their names end in ``_ms``, where the time unit is s or ms.
    """
    scales = {"none": ("", 1.0), "s": ("_ms", 1e3), "ms": ("_ms", 1.0)}
    if time_unit not in scales:
        raise ConfigError("time_unit", time_unit, " | ".join(scales))
    return scales[time_unit]


def weighted_percentile(values: ArrayLike, weight: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Return percentiles of weighted samples, equal to ``np.percentile`` for equal weights.

    Weights of whole numbers, by their type, count samples: percentiles are those of
    ``np.percentile`` where each value stands as often as it weighs. Other weights are masses. Each
    sample sits at the middle of its mass then; positions are rescaled so that the smallest and the
    largest sample are the 0th and the 100th percentile. NaN where there is no sample.
    """
    values, given = np.asarray(values, float), np.asarray(weight)
    weight, q = given.astype(float), np.asarray(q, float)
    if values.size == 0 or weight.sum() <= 0:
        return np.full(q.shape, np.nan)
    order = np.argsort(values)  # not stable: equal values are the same in any order
    values, weight = values[order], weight[order]
    if given.dtype.kind in "iu":
        return _counted_percentile(values, np.cumsum(given[order]), q)
    middle = np.cumsum(weight) - 0.5 * weight
    span = middle[-1] - middle[0]
    position = (middle - middle[0]) / span if span > 0 else np.zeros(values.size)
    return np.interp(q / 100, position, values)


def _counted_percentile(
    values: NDArray[np.float64], up_to: NDArray[np.integer], q: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return percentiles of sorted values, of which so many lie up to each, ends included."""
    at = q / 100 * (up_to[-1] - 1)
    low = np.floor(at).astype(np.int64)
    below, above = (
        values[np.searchsorted(up_to, np.minimum(each, up_to[-1] - 1), side="right")]
        for each in (low, low + 1)
    )
    return below + (above - below) * (at - low)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean, standard deviation, median and percentiles of one latency [time]."""

    mean: float
    std: float
    percentiles: Mapping[int, float]

    @classmethod
    def of(cls, values: NDArray[np.float64], weight: NDArray[np.float64]) -> Distribution:
        """Return the distribution of weighted samples; NaN throughout where there are none."""
        marks: dict[int, float] = dict(
            zip(PERCENTILES, weighted_percentile(values, weight, PERCENTILES).tolist(), strict=True)
        )
        total = weight.sum()
        if values.size == 0 or total <= 0:
            return cls(float("nan"), float("nan"), marks)
        # Not a dot product: BLAS splits one among threads, and its last bits with it.
        mean = float(np.sum(values * weight) / total)
        return cls(mean, float(np.sqrt(np.sum((values - mean) ** 2 * weight) / total)), marks)


@dataclass(frozen=True, slots=True)
class ServingMetrics:
    """What a run or a solution achieved; ``metrics.completed`` reads a total by its name.

    Parameters
    ----------
    latencies
        A :class:`Distribution` for each of :data:`LATENCIES`.
    request_goodput : [requests/time] or None
        Completions that met every given threshold, per time; None where none was given, where the
        duration is 0, and where a threshold is on a latency that no request has.
    totals
        Every one of :data:`serving.TOTALS`, NaN where unknown.
    """

    latencies: Mapping[str, Distribution]
    request_goodput: float | None
    totals: Mapping[str, float]

    def __getattr__(self, name: str) -> float:
        """Return a total by its name."""
        if name not in TOTALS:
            raise AttributeError(f"metrics have no {name!r}; totals are {', '.join(TOTALS)}")
        return self.totals[name]

    @classmethod
    @checked()
    def summarise(
        cls,
        samples: LatencySamples,
        totals: Mapping[str, float],
        goodput: Mapping[str, float] | None = None,
    ) -> ServingMetrics:
        """Return the metrics of latency samples and totals.

        Parameters
        ----------
        samples
            Latencies with weights.
        totals
            Those of :data:`serving.TOTALS` that the producer knows.
        goodput
            Threshold [time] by one of :data:`PER_REQUEST_LATENCIES`, such as ``{"ttft": 2.0}``.

        Raises
        ------
        FluidServeError
            If a threshold is on something that a request has not one of, or a total is none.
        """
        totals = checked_totals(totals)
        latencies = {name: Distribution.of(*samples.of(name)) for name in LATENCIES}
        for name in goodput or ():
            if name not in PER_REQUEST_LATENCIES:
                known = ", ".join(PER_REQUEST_LATENCIES)
                raise FluidServeError(f"goodput counts requests; {name!r} is not one of {known}")
        good = None
        is_defined = all(samples.of(name)[0].size > 0 for name in goodput or ())
        if goodput and totals["duration"] > 0 and (is_defined or samples.weight.size == 0):
            met = np.ones(samples.weight.size, bool)
            for name, threshold in goodput.items():
                met &= ~(getattr(samples, name) > threshold)
            good = float(samples.weight[met].sum() / totals["duration"])
        return cls(latencies, good, totals)

    @checked()
    def to_json(self, time_unit: str = "none") -> dict[str, Any]:
        """Return the metrics under the names of ``vllm bench serve``.

        Latencies are in ms and named ``mean_ttft_ms`` where the unit of time is known; with
        ``time_unit`` none the ``_ms`` is dropped and times stay as they are.
        """
        suffix, factor = latency_scale(time_unit)
        rate = 1 / self.duration if self.duration > 0 else float("nan")
        shown = {
            name: self.totals[name]
            for name, total in TOTALS.items()
            if total.shown and not (total.where_known and np.isnan(self.totals[name]))
        }
        out: dict[str, Any] = {k: value for k, value in shown.items() if TOTALS[k].leads}
        for name, total in TOTALS.items():
            if total.per_time is not None and not (
                total.where_known and np.isnan(self.totals[name])
            ):
                out[total.per_time] = self.totals[name] * rate
        out["request_goodput"] = self.request_goodput
        for name, of in self.latencies.items():
            out[f"mean_{name}{suffix}"] = of.mean * factor
            out[f"median_{name}{suffix}"] = of.percentiles[50] * factor
            out[f"std_{name}{suffix}"] = of.std * factor
            for q, value in of.percentiles.items():
                out[f"p{q}_{name}{suffix}"] = value * factor
        out |= shown
        return {
            k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in out.items()
        }
