"""Integrates in time: Eulerian (the symbols), Lagrangian (iteration clock), one node's work."""

from typing import TYPE_CHECKING

from ode._collapse import Collapse, collapsed_throughput
from ode._hysteresis import Hysteresis, hysteresis
from ode._regime import REGIMES, regime
from ode._threshold import ThresholdChoice, choose_threshold
from ode.gradients import Gradients, gradients
from ode.initial_state import InitialState
from ode.solution import Solution
from ode.solve import METHODS, solve
from serving.later import later

if TYPE_CHECKING:
    from ode.analysis import Analysis, analyze
    from ode.workload_process import Stationary, stationary

__all__ = [
    "METHODS",
    "REGIMES",
    "Analysis",
    "Collapse",
    "Gradients",
    "Hysteresis",
    "InitialState",
    "Solution",
    "Stationary",
    "ThresholdChoice",
    "analyze",
    "choose_threshold",
    "collapsed_throughput",
    "gradients",
    "hysteresis",
    "regime",
    "solve",
    "stationary",
]

# These need compiled kernels.
__getattr__ = later(
    __name__,
    {
        "Analysis": "ode.analysis",
        "Stationary": "ode.workload_process",
        "analyze": "ode.analysis",
        "stationary": "ode.workload_process",
    },
)
