"""What a method expected of its own error beside what was found, metric by metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ode.error_model import Expected
from ode.error_model.model import COVERS
from ode.error_model.report import TITLES
from studies.comparison.noise import groups_of


@dataclass(frozen=True, slots=True)
class Found:
    """A metric of a method beside the engine's.

    Parameters
    ----------
    error
        Natural logarithm of predicted over engine.
    noise
        Half-width of the engine's own interval, as a logarithm; NaN where one run tells none.
    expected
        What the method expected; None where nobody measured it.
    """

    error: float
    noise: float
    expected: Expected | None

    @property
    def inside(self) -> bool | None:
        """Whether the engine was inside of the interval, its own noise allowed for.

        None where the method or the engine tells no interval.
        """
        if self.expected is None or not math.isfinite(self.noise):
            return None
        off = abs(self.error - self.expected.bias)
        return off <= math.hypot(self.expected.half_width, self.noise)

    def to_json(self) -> dict[str, Any]:
        """Return relative errors, predicted over engine less 1, and whether they were expected."""
        noise = math.expm1(self.noise) if math.isfinite(self.noise) else None
        return {"error": math.expm1(self.error), "noise": noise, "inside": self.inside}


def held_against(
    predicted: Mapping[str, float],
    engine: Mapping[str, float],
    noise: Mapping[str, float],
    errors: Mapping[str, Expected],
    replications: int,
) -> dict[str, Found]:
    """Return how far a method is from the engine, by metric; those that both have.

    Parameters
    ----------
    predicted, engine
        Values by metric [time, or requests].
    noise
        Relative standard errors of the engine's values.
    errors
        What the method expects.
    replications
        Of the engine.
    """
    from scipy.stats import t

    groups = groups_of(replications)
    wide = float(t.ppf(0.5 + COVERS / 2, groups - 1)) if groups > 1 else math.nan
    return {
        name: Found(math.log(predicted[name] / engine[name]), wide * noise[name], errors.get(name))
        for name in TITLES
        if min(predicted.get(name, 0.0), engine.get(name, 0.0)) > 0
    }


def words_of(found: Mapping[str, Found]) -> str | None:
    """Return in how many intervals the engine was, and which it was not in; None without any."""
    told = {name: each.inside for name, each in found.items() if each.inside is not None}
    if not told:
        return None
    outside = [TITLES[name] for name, inside in told.items() if not inside]
    inside = len(told) - len(outside)
    said = f"the engine is inside of {inside} of {len(told)} intervals"
    return said + (f"; not of {', '.join(outside)}" if outside else "")
