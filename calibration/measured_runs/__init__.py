"""A measured run: what a client noted of real requests, and how the server was set."""

from calibration.measured_runs.reading import read_measured_run as read_measured_run
from calibration.measured_runs.run import MeasuredRun as MeasuredRun
from calibration.measured_runs.run import ServedBy as ServedBy
from calibration.measured_runs.run import TimeSeries as TimeSeries
