from . import profiles as profiles
from .server_runs import RunCalibration as RunCalibration
from .server_runs import calibrate_run as calibrate_run
from .server_runs import read_server_log as read_server_log
from .step_times import StepRows as StepRows
from .step_times import StepTimeFit as StepTimeFit
from .step_times import fit_step_times as fit_step_times
from .step_times import read_step_times as read_step_times
