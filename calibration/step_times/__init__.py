"""Batch-time laws from measured step times: read, fit, and say how good the fit is."""

from calibration.step_times._recipes import Recipe, predict
from calibration.step_times.diagnostics import Coefficient, Identifiability, Outlier
from calibration.step_times.fit import LAWS, FitQuality, StepTimeFit, fit_step_times
from calibration.step_times.holdout import HeldOut
from calibration.step_times.reading import StepRows, read_step_times

__all__ = [
    "LAWS",
    "Coefficient",
    "FitQuality",
    "HeldOut",
    "Identifiability",
    "Outlier",
    "Recipe",
    "StepRows",
    "StepTimeFit",
    "fit_step_times",
    "predict",
    "read_step_times",
]
