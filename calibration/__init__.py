"""Fluid against discrete: replications, scores, and studies of how close the model is.

Besides: laws from step times and from running servers, and profiles of models on cards.
"""

from typing import TYPE_CHECKING

from serving.later import later

if TYPE_CHECKING:
    from calibration import accuracy, full_memory, profiles
    from calibration.comparison import Comparison, MethodResult, compare
    from calibration.ensemble import Ensemble, run_ensemble
    from calibration.server_runs import RunCalibration, calibrate_run, read_server_log
    from calibration.step_times import StepRows, StepTimeFit, fit_step_times, read_step_times

__all__ = [
    "Comparison",
    "Ensemble",
    "MethodResult",
    "RunCalibration",
    "StepRows",
    "StepTimeFit",
    "accuracy",
    "calibrate_run",
    "compare",
    "fit_step_times",
    "full_memory",
    "profiles",
    "read_server_log",
    "read_step_times",
    "run_ensemble",
]

# A profile needs neither the simulator nor a fit.
__getattr__ = later(
    __name__,
    {
        **{name: f"calibration.{name}" for name in ("accuracy", "full_memory", "profiles")},
        **dict.fromkeys(("Comparison", "MethodResult", "compare"), "calibration.comparison"),
        **dict.fromkeys(("Ensemble", "run_ensemble"), "calibration.ensemble"),
        **dict.fromkeys(
            ("RunCalibration", "calibrate_run", "read_server_log"), "calibration.server_runs"
        ),
        **dict.fromkeys(
            ("StepRows", "StepTimeFit", "fit_step_times", "read_step_times"),
            "calibration.step_times",
        ),
    },
)
