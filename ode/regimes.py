"""The regime of an instance, its edges, and how sure it is on which side of them a rate is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ode.error_model.capacity import capacity_error
from ode.error_model.model import UNKNOWN
from ode.full_memory import edges, regime
from serving import Instance, RequestMix
from serving.arguments import checked

WORDS = {
    "capacity": "capacity",
    "queued": "what a full instance completes",
    "highest": "the highest rate that an empty start keeps up with",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrival rate at which the regime changes.

    Parameters
    ----------
    name
        ``capacity``, ``queued`` (what an instance completes once it has a queue) or ``highest``
        (that it keeps up with from an empty start).
    rate : [requests/time]
        By the model.
    low, high : [requests/time]
        Between which the engine's is expected; 0 and infinite where nobody measured it.
    """

    name: str
    rate: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether the interval was measured."""
        return math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        """Return the edge; null where no interval is known."""
        low, high = (self.low, self.high) if self.is_known else (None, None)
        return {"edge": self.name, "rate": self.rate, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class RegimeReport:
    """A regime, and how sure it is.

    Parameters
    ----------
    name
        See :func:`ode.regime`.
    rate : [requests/time]
        Arrival rate.
    edges
        Rates at which the regime changes, the nearest first.
    """

    name: str
    rate: float
    edges: tuple[Edge, ...]

    @property
    def distance(self) -> float:
        """Relative distance of the rate from the nearest edge: below 0 where it is lower."""
        return self.rate / self.edges[0].rate - 1.0

    @property
    def confidence(self) -> str:
        """``high`` where no interval of an edge holds the rate, else ``low``; or ``unknown``."""
        if not all(edge.is_known for edge in self.edges):
            return UNKNOWN
        return "low" if any(edge.low <= self.rate <= edge.high for edge in self.edges) else "high"

    @property
    def words(self) -> str:
        """One line."""
        near = self.edges[0]
        side = "above" if self.distance >= 0 else "below"
        where = f"{100 * abs(self.distance):.2g} % {side} {WORDS[near.name]}"
        if not near.is_known:
            return f"confidence of the regime {self.confidence}: the rate is {where}"
        low, high = (100 * (near.rate / end - 1.0) for end in (near.high, near.low))
        return (
            f"confidence of the regime {self.confidence}: the rate is {where}, which is known to "
            f"{low:+.1f} to {high:+.1f} %"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report."""
        return {
            "confidence": self.confidence,
            "words": self.words,
            "distance": self.distance,
            "edges": [edge.to_json() for edge in self.edges],
        }


@checked()
def regime_report(mix: RequestMix, instance: Instance, arrival_rate: float) -> RegimeReport:
    """Return the regime of an instance under a constant rate, and how sure it is.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    arrival_rate : [requests/time]
        Above 0.
    """
    found = []
    for name, rate in edges(mix, instance).items():
        error = capacity_error(mix, instance, "queued" if name == "queued" else "capacity")
        found.append(Edge(name, rate, *error.between(rate)))
    found.sort(key=lambda each: _apart(arrival_rate, each.rate))
    return RegimeReport(regime(mix, instance, arrival_rate), arrival_rate, tuple(found))


def _apart(rate: float, edge: float) -> float:
    """Return how far apart rates are, by the logarithm; a node that takes no time has no edge."""
    return abs(math.log(rate / edge)) if 0 < rate < math.inf and 0 < edge < math.inf else math.inf
