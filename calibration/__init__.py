"""Fluid against discrete: replications, scores, and studies of how close the model is."""

from calibration import accuracy, full_memory
from calibration.comparison import Comparison, MethodResult, compare
from calibration.ensemble import Ensemble, run_ensemble

__all__ = [
    "Comparison",
    "Ensemble",
    "MethodResult",
    "accuracy",
    "compare",
    "full_memory",
    "run_ensemble",
]
