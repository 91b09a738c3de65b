"""Whether the mean of the runs is still a path that a run takes, where the node cycles.

A full node whose equilibrium is unstable swings between few large requests and many small ones. A
large run follows the cycle of the fluid limit. Chance gives every run another phase, so that the
mean of many runs swings less than each of them, and less than the fluid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fluid import LIMIT_CYCLE
from serving import Trajectory
from studies.comparison.gathering import Ensemble
from studies.comparison.scores import MethodResult, scale

SWINGING = "batch_size"
"""Output that swings with the cycle and has a steady mean in a full node."""

LEAST_TIMES = 20
"""Times of the grid at which the node is full, from which a swing is measured."""

WASHED_OUT = 0.7
"""Share of the swing of one run below which the mean of the runs is no path of one."""


def phase_warning(ensemble: Ensemble, methods: Mapping[str, MethodResult]) -> str | None:
    """Return what to know before a fluid cycle is held against the mean of the runs.

    None where no solution cycles, and where the mean of the runs swings like a run.
    """
    if ensemble.replications < 2 or SWINGING not in ensemble.mean.outputs:
        return None
    cycling = [
        name
        for name, each in methods.items()
        if any(label.startswith(LIMIT_CYCLE) for label in each.solution.warnings)
    ]
    if not cycling:
        return None
    name = max(cycling, key=lambda each: _swing_of(methods[each], ensemble))
    late = _full(methods[name], ensemble)
    run = ensemble.run.trajectory(ensemble.grid).sampled(ensemble.grid)
    of_fluid = _swing_of(methods[name], ensemble)
    of_run, of_mean = (_swing(each, late) for each in (run, ensemble.mean))
    if not of_mean < WASHED_OUT * max(of_run, of_fluid):
        return None
    from_run = _distance(methods[name].sampled, run) / scale(ensemble.mean, "in_system")
    return (
        f"{LIMIT_CYCLE}: the requests of a batch swing by +-{of_fluid:.1%} in {name} and "
        f"+-{of_run:.1%} in a run, but +-{of_mean:.1%} in the mean of {ensemble.replications} "
        f"runs: chance gives each run another phase, so the mean is no path of a run; {name} is "
        f"{from_run:.1%} off the first run and {methods[name].nrmse['in_system']:.1%} off the mean"
    )


def _full(result: MethodResult, ensemble: Ensemble) -> NDArray[np.intp]:
    """Return the times of the grid, by number, in the later half of those when the node is full."""
    solution = result.solution
    last = np.searchsorted(solution.trajectory.time, ensemble.grid, side="right") - 1
    at = np.flatnonzero(solution.is_full[np.maximum(last, 0)])
    return at[at.size // 2 :]


def _swing_of(result: MethodResult, ensemble: Ensemble) -> float:
    return _swing(result.sampled, _full(result, ensemble))


def _swing(trajectory: Trajectory, at: NDArray[np.intp]) -> float:
    """Return the standard deviation over its mean, about a straight line; 0 if too few times."""
    if at.size < LEAST_TIMES:
        return 0.0
    values = trajectory.outputs[SWINGING][at]
    rest = values - np.polyval(np.polyfit(at, values, 1), at)
    return float(rest.std() / max(values.mean(), 1e-300))


def _distance(one: Trajectory, other: Trajectory) -> float:
    gap = one.outputs["in_system"] - other.outputs["in_system"]
    return float(np.sqrt(np.mean(gap**2)))
