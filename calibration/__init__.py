"""Fluid against discrete: replications, scores, and studies of how close the model is."""

from calibration import accuracy, full_memory
from calibration.comparison import Comparison, MethodResult, compare
from calibration.ensemble import Ensemble, run_ensemble
from calibration.step_times import StepRows, StepTimeFit, fit_step_times, read_step_times

__all__ = [
    "Comparison",
    "Ensemble",
    "MethodResult",
    "StepRows",
    "StepTimeFit",
    "accuracy",
    "compare",
    "fit_step_times",
    "full_memory",
    "read_step_times",
    "run_ensemble",
]
