"""What a fleet of so many instances does with given requests: its latencies, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.sizing import BLOCKS, Sizing
from serving import FluidServeError
from studies.tuning import Slo
from studies.tuning.engine import (
    BACKLOG_GROWTH,
    GROWTH_SCALE,
    MOST_GROWTH,
    Measurement,
    Point,
)


@dataclass(frozen=True, eq=False)
class FleetSize:
    """A number of instances, and what its runs said.

    Parameters
    ----------
    sizing
        What was asked.
    replicas
        Instances.
    rows
        Of :func:`measured`, one per run.
    """

    sizing: Sizing
    replicas: int
    rows: tuple[Mapping[str, Any], ...] = field(default=())

    @cached_property
    def _point(self) -> Point:
        """The runs of a stream, as a search of one instance's knob judges them."""
        each = [
            Measurement(
                row["values"] | {BACKLOG_GROWTH: row["growth"]},
                {str(slo): slo.margin(row["values"][str(slo)]) for slo in self.sizing.slos}
                | {BACKLOG_GROWTH: (row["growth"] - MOST_GROWTH) / GROWTH_SCALE},
                row["settled"],
                {name: np.array(parts) for name, parts in row["parts"].items()},
            )
            for row in self.rows
        ]
        return Point(self.replicas, self.rows[0]["requests"], each)

    @property
    def margins(self) -> dict[str, float]:
        """Log of each statistic over its limit, and of a stream what the backlog grows too fast."""
        if self.sizing.is_trace:
            return {s: slo.margin(self.rows[0]["values"][s]) for s, slo in self._slos.items()}
        return {name: float(self._point.margins(name).mean()) for name in self._named}

    @property
    def _slos(self) -> dict[str, Slo]:
        return {str(slo): slo for slo in self.sizing.slos}

    @property
    def _named(self) -> list[str]:
        return [*self._slos, BACKLOG_GROWTH]

    @property
    def met(self) -> bool:
        """Whether every objective is met: by the trace itself, or on average over the runs."""
        return all(margin <= 0 for margin in self.margins.values())

    @property
    def certain(self) -> bool:
        """Whether another such trace, or further runs, would most likely get the same verdict."""
        from scipy.stats import t

        if not self.sizing.is_trace:
            return self._point.certain(self.sizing.confidence)
        quantile = float(t.ppf(0.5 + self.sizing.confidence / 2, BLOCKS - 1))
        verdicts = []
        for name, error in self.rows[0]["block_errors"].items():
            margin = self.margins[name]
            clear = error is not None and abs(margin) > quantile * error
            verdicts.append(margin <= 0 if clear else None)
        return False in verdicts or None not in verdicts

    @property
    def binding(self) -> str:
        """The objective that is missed most, or is nearest to it."""
        if not self.sizing.is_trace:
            return self._point.binding
        return max(self.margins, key=lambda name: self.margins[name])

    @property
    def values(self) -> dict[str, float]:
        """The mean of each statistic over the runs, in the unit of its name."""
        found = {
            slo.name: slo.told(float(np.mean([row["values"][name] for row in self.rows])))
            for name, slo in self._slos.items()
        }
        if not self.sizing.is_trace:
            found[BACKLOG_GROWTH] = float(np.mean([row["growth"] for row in self.rows]))
        return found

    @property
    def errors(self) -> dict[str, float | None]:
        """Standard errors of the values: between runs, or between blocks of a trace."""
        found: dict[str, float | None] = {}
        for name, slo in self._slos.items():
            each = np.array([row["values"][name] for row in self.rows])
            if self.sizing.is_trace:
                error = self.rows[0]["block_errors"][name]
                found[slo.name] = None if error is None else slo.told(float(each[0])) * error
            elif each.size > 1:
                found[slo.name] = slo.told(float(each.std(ddof=1))) / math.sqrt(each.size)
            else:
                found[slo.name] = None
        return found

    @property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Where values of other such requests would be, at the confidence; None if unknown.

        That of a latency is an interval of its log, as the verdict is made.
        """
        found: dict[str, tuple[float, float] | None] = {}
        for name, slo in self._slos.items():
            each = np.array([slo.margin(row["values"][name]) for row in self.rows])
            ends = self._ends(each, self.rows[0].get("block_errors", {}).get(name))
            found[slo.name] = _finite(slo.told(slo.limit) * np.exp(ends))
        if not self.sizing.is_trace:
            found[BACKLOG_GROWTH] = _finite(self._ends(np.array([r["growth"] for r in self.rows])))
        return found

    def _ends(self, each: NDArray[np.float64], error: float | None = None) -> NDArray[np.float64]:
        """Return both ends of the interval of a mean over the runs, NaN where nobody knows."""
        from scipy.stats import t

        freedom = BLOCKS - 1
        if not self.sizing.is_trace:
            freedom = each.size - 1
            error = float(each.std(ddof=1)) / math.sqrt(each.size) if freedom else None
        if error is None:
            return np.full(2, np.nan)
        half = error * float(t.ppf(0.5 + self.sizing.confidence / 2, freedom))
        return each.mean() + half * np.array([-1.0, 1.0])

    @property
    def utilization(self) -> float:
        """Share of the instances' time in which a batch executes."""
        shares = [row["busy"] / (row["lasts"] * self.replicas) for row in self.rows if row["lasts"]]
        return float(np.mean(shares)) if shares else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return what the runs said."""
        return {
            "replicas": self.replicas,
            "met": self.met,
            "certain": self.certain,
            "binding": self.binding,
            "runs": len(self.rows),
            "requests": self.rows[0]["requests"],
            "measured": self.values,
            "standard_error": self.errors,
            "interval": {
                name: None if ends is None else list(ends) for name, ends in self.intervals.items()
            },
            "gpu_utilization": self.utilization,
        }


def _finite(ends: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return both ends of an interval; None where one of them is not known."""
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else None


Measure = Callable[[int, int], Mapping[str, Any]]
"""From instances and the number of a run to the row of :func:`measured`."""


def sized(sizing: Sizing, replicas: int, measure: Measure) -> FleetSize:
    """Return a number of instances with as many runs as its verdict takes."""
    if replicas < 1:
        raise FluidServeError("a fleet has at least one instance")
    rows: list[Mapping[str, Any]] = []
    while True:
        rows.append(measure(replicas, len(rows)))
        size = FleetSize(sizing, replicas, tuple(rows))
        if len(rows) >= sizing.most_runs or (not sizing.is_trace and size.certain):
            return size
