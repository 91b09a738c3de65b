"""Service level objectives such as ``p99_ttft<2``, and how far a measurement is from them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import LATENCIES, Distribution, FluidServeError, LatencySamples
from serving.metrics import PERCENTILES, weighted_percentile

STATISTICS = ("mean", "median", *(f"p{q}" for q in PERCENTILES))
"""Statistics that an objective may be about."""

SLO_FORM = (
    f"STATISTIC_LATENCY<LIMIT, such as p99_ttft<2 or p99_ttft_ms<2000; statistics "
    f"{', '.join(STATISTICS)}; latencies {', '.join(LATENCIES)}; a finite limit > 0"
)
"""Form of an objective, in words."""

_TEXT = re.compile(
    rf"({'|'.join(STATISTICS)})_({'|'.join(LATENCIES)})(_ms)?\s*<=?\s*([0-9.eE+-]+)\s*"
)
"""What the text of an objective has to match: statistic, latency, ``_ms`` and limit."""

_PER_MS = {"s": 1e-3, "ms": 1.0}
"""One millisecond in each unit of time."""


@dataclass(frozen=True, slots=True)
class Slo:
    """A statistic of a latency that is to stay below a limit.

    Parameters
    ----------
    statistic
        One of :data:`STATISTICS`.
    latency
        One of :data:`serving.LATENCIES`.
    limit : [time]
        In the unit of the run.
    per_ms : [time] or None
        One millisecond, where the objective was given in ms and is told in ms.
    """

    statistic: str
    latency: str
    limit: float
    per_ms: float | None = None

    @property
    def name(self) -> str:
        """Statistic and latency as they were asked for, such as ``p99_ttft`` or ``p99_ttft_ms``."""
        return f"{self.statistic}_{self.latency}" + ("" if self.per_ms is None else "_ms")

    @property
    def metric(self) -> str:
        """Statistic and latency under the name that metrics have, such as ``p50_ttft``."""
        return f"{'p50' if self.statistic == 'median' else self.statistic}_{self.latency}"

    def told(self, value: float) -> float:
        """Return a value [time] in the unit of the objective's name."""
        return value if self.per_ms is None else value / self.per_ms

    def __str__(self) -> str:
        return f"{self.name}<{self.told(self.limit):g}"

    @property
    def percentile(self) -> int | None:
        """Percentile that the statistic is; None for the mean."""
        if self.statistic == "mean":
            return None
        return 50 if self.statistic == "median" else int(self.statistic[1:])

    def measured(self, samples: LatencySamples) -> float:
        """Return the statistic of samples [time]; NaN where there are none."""
        values, weight = samples.of(self.latency)
        if values.size == 0 or weight.sum() <= 0:
            return math.nan
        if self.latency != "itl":  # requests weigh the same: no need to sort them all
            return self.statistic_of(values)
        if self.percentile is None:
            return float(np.sum(values * weight) / weight.sum())
        return float(weighted_percentile(values, weight, self.percentile))

    def statistic_of(self, values: NDArray[np.float64]) -> float:
        """Return the statistic of values that weigh the same [time]; NaN where there are none."""
        if values.size == 0:
            return math.nan
        if self.percentile is None:
            return float(values.mean())
        return float(np.percentile(values, self.percentile))

    def predicted(self, distribution: Distribution) -> float:
        """Return the statistic of a distribution [time]."""
        if self.percentile is None:
            return distribution.mean
        return float(distribution.percentiles[self.percentile])

    def margin(self, value: float) -> float:
        """Return log(value / limit): below 0 where met; infinite where there is no value."""
        if not math.isfinite(value):
            return math.inf
        return math.log(value / self.limit) if value > 0 else -math.inf


def parse_slo(text: str, time_unit: str = "none") -> Slo:
    """Return the objective that ``text`` names, its limit in ``time_unit``.

    Raises
    ------
    FluidServeError
        Naming the text and the form it should have.
    """
    found = _TEXT.fullmatch(text.strip())
    try:
        limit = float(found[4]) if found else math.nan
    except ValueError:
        limit = math.nan
    if found is None or not 0 < limit < math.inf:
        raise FluidServeError(f"--slo {text!r} is not allowed; allowed: {SLO_FORM}")
    if found[3] and time_unit not in _PER_MS:
        raise FluidServeError(f"--slo {text!r}: a run without a time unit has no ms")
    if not found[3]:
        return Slo(found[1], found[2], limit)
    return Slo(found[1], found[2], limit * _PER_MS[time_unit], _PER_MS[time_unit])
