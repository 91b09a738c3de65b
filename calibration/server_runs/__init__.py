"""Calibration from what a running server wrote: per-request results or per-second metrics."""

from calibration.server_runs._batch_rows import BatchRows
from calibration.server_runs._calibrate import HeldOut, RunCalibration, calibrate_run
from calibration.server_runs._drift import Drift, Window
from calibration.server_runs._law import COEFFICIENTS, LawFit, fit_law
from calibration.server_runs._metric_rows import rows_of_metrics
from calibration.server_runs._metrics import MetricsLog
from calibration.server_runs._offsets import Estimate
from calibration.server_runs._read import ServerLog, read_server_log
from calibration.server_runs._requests import RequestLog
from calibration.server_runs._rows import rows_of_requests

__all__ = [
    "COEFFICIENTS",
    "BatchRows",
    "Drift",
    "Estimate",
    "HeldOut",
    "LawFit",
    "MetricsLog",
    "RequestLog",
    "RunCalibration",
    "ServerLog",
    "Window",
    "calibrate_run",
    "fit_law",
    "read_server_log",
    "rows_of_metrics",
    "rows_of_requests",
]
