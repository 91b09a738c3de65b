"""Measured step times give a batch-time law, and figures that say how good the fit is."""

from calibration.step_times.diagnostics import Coefficient as Coefficient
from calibration.step_times.diagnostics import Identifiability as Identifiability
from calibration.step_times.diagnostics import Outlier as Outlier
from calibration.step_times.fit import LAWS as LAWS
from calibration.step_times.fit import FitQuality as FitQuality
from calibration.step_times.fit import StepTimeFit as StepTimeFit
from calibration.step_times.fit import fit_step_times as fit_step_times
from calibration.step_times.holdout import HeldOut as HeldOut
from calibration.step_times.other_files import ITERATIONS as ITERATIONS
from calibration.step_times.reading import read_step_times as read_step_times
from calibration.step_times.recipes import Recipe as Recipe
from calibration.step_times.recipes import predict as predict
from calibration.step_times.rows import StepRows as StepRows
