"""What a capacity says of its own error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ode.error_model.capacity_basis import capacity_features
from ode.error_model.model import (
    COVERS,
    THROUGHPUT,
    UNKNOWN,
    Expected,
    coefficients,
    expected,
    outside,
)
from ode.error_model.report import percent_off, unmeasured_node
from serving import FluidServeError, Instance, RequestMix, reading_of
from serving.kinds.prompt_server import PromptServer

NAMES = {"capacity": "capacity", "queued": "the throughput with a queue"}


@dataclass(frozen=True, slots=True)
class CapacityError:
    """How far a capacity is expected to be from what the engine completes with a queue.

    Parameters
    ----------
    of
        ``capacity``, or ``queued`` for what an instance completes once it has a queue.
    expected
        None where nobody measured it.
    reason
        Why nobody did.
    """

    of: str
    expected: Expected | None = None
    reason: str | None = None

    @property
    def bound(self) -> float:
        """How far off at most, relative, with the chance of the interval; infinite if unknown."""
        return math.inf if self.expected is None else self.expected.bound

    @property
    def confidence(self) -> str:
        """``high`` within 5 %, ``fair`` within 15 %, ``low`` beyond, or ``unknown``."""
        return UNKNOWN if self.expected is None else self.expected.confidence

    @property
    def words(self) -> str:
        """One line."""
        if self.expected is None:
            return f"confidence of {NAMES[self.of]} unknown: {self.reason}"
        low, high = self.expected.interval
        return (
            f"confidence of {NAMES[self.of]} {self.confidence}: of those like this one "
            f"{100 * COVERS:.0f} % differ from the engine by {percent_off(low)} to "
            f"{percent_off(high)} %"
        )

    def between(self, throughput: float) -> tuple[float, float]:
        """Return what the engine is expected to complete where the model says ``throughput``."""
        if self.expected is None:
            return 0.0, math.inf
        low, high = self.expected.interval
        return throughput / (1 + high), throughput / (1 + low) if low > -1 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the error: relative, predicted over engine less 1."""
        found: dict[str, Any] = {"words": self.words, "confidence": self.confidence}
        if self.expected is None:
            return found
        low, high = self.expected.interval
        more = {"expected": math.expm1(self.expected.bias), "low": low, "high": high}
        return found | {"covers": COVERS} | more


@lru_cache(maxsize=256)
def capacity_error(
    mix: RequestMix, instance: Instance | PromptServer, of: str = "capacity"
) -> CapacityError:
    """Return how far off the capacity of an instance is expected to be.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    of
        ``capacity``: evictions cost nothing, and no queue gets requests into step. ``queued``:
        what the instance completes once it has a queue (:func:`ode.collapsed_throughput`).
    """
    node: Any = reading_of(instance).node  # type: ignore[arg-type]
    try:
        features = capacity_features(mix, node)
        reason = _unmeasured(node, of, features)
    except FluidServeError as error:
        reason = f"the closed forms that the error depends on fail: {error}"
    if reason is not None:
        return CapacityError(of, reason=reason)
    if of == "capacity":  # in either mode it is that of a node whose evictions cost nothing
        features |= {"sacrifice": 0.0}
    return CapacityError(of, expected(node.engine, of, THROUGHPUT, features))


def _unmeasured(node: Any, of: str, features: dict[str, float]) -> str | None:
    """Return why the campaign knows no capacities like this one; None where it does."""
    if THROUGHPUT not in coefficients().get(node.engine, {}).get(of, {}):
        return f"errors of it on the engine {node.engine} were not measured"
    if (beyond := outside(features)) is not None:
        return f"errors were not measured there; {beyond}"
    return unmeasured_node(node)
