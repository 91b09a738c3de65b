"""Turn a comparison into the curves that every picture of fluid next to discrete is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluidserve.plots.style import Curve, factors

if TYPE_CHECKING:
    from studies import Comparison
    from studies.comparison import MethodResult


def curves_of(comparison: Comparison) -> tuple[Curve, list[Curve]]:
    """Return the mean of the discrete runs, with its bands, and every fluid solution.

    The main line has its expected error, too.
    """
    runs = comparison.discrete
    discrete = Curve("discrete", runs.mean, runs.low, runs.high, runs.sd, runs.replications)
    main = None if comparison.main is None else comparison.main.method
    return discrete, [
        Curve(name, each.sampled, off=_off(each) if name == main else None)
        for name, each in comparison.methods.items()
    ]


def _off(result: MethodResult) -> tuple[float, float] | None:
    return factors(result.error.to_json(), "mean_in_system")
