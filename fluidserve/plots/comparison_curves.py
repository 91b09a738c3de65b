"""Turn a comparison into the curves that every picture of fluid next to discrete is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluidserve.plots.style import Curve

if TYPE_CHECKING:
    from studies import Comparison


def curves_of(comparison: Comparison) -> tuple[Curve, list[Curve]]:
    """Return the mean of the discrete runs, with its bands, and every fluid solution."""
    runs = comparison.discrete
    discrete = Curve("discrete", runs.mean, runs.low, runs.high, runs.sd, runs.replications)
    return discrete, [Curve(name, each.sampled) for name, each in comparison.methods.items()]
