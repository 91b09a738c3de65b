"""A running server's results or metrics give the batch-time law of the server."""

from calibration.server_runs.batch_rows import BatchRows as BatchRows
from calibration.server_runs.calibrate import HeldOut as HeldOut
from calibration.server_runs.calibrate import RunCalibration as RunCalibration
from calibration.server_runs.calibrate import calibrate_run as calibrate_run
from calibration.server_runs.drift import Drift as Drift
from calibration.server_runs.drift import Window as Window
from calibration.server_runs.intervals import half_widths_of as half_widths_of
from calibration.server_runs.intervals import laws_without_parts as laws_without_parts
from calibration.server_runs.iteration_rows import Gap as Gap
from calibration.server_runs.iterations import IterationLog as IterationLog
from calibration.server_runs.law import COEFFICIENTS as COEFFICIENTS
from calibration.server_runs.law import Coefficients as Coefficients
from calibration.server_runs.law import LawFit as LawFit
from calibration.server_runs.law import fit_law as fit_law
from calibration.server_runs.metric_rows import rows_of_metrics as rows_of_metrics
from calibration.server_runs.metrics import MetricsLog as MetricsLog
from calibration.server_runs.offsets import Estimate as Estimate
from calibration.server_runs.read import ServerLog as ServerLog
from calibration.server_runs.read import read_server_log as read_server_log
from calibration.server_runs.reconstruction import Replay as Replay
from calibration.server_runs.reconstruction import Replayed as Replayed
from calibration.server_runs.reconstruction import reconstruct as reconstruct
from calibration.server_runs.request_rows import rows_of_requests as rows_of_requests
from calibration.server_runs.requests import RequestLog as RequestLog
