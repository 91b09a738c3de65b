"""What a node sustains at an objective, and which value of a knob: scanned, bisected, confirmed."""

from calibration.tuning.engine import Measurement, Point, measure
from calibration.tuning.goodput import GoodputSearch, most_goodput
from calibration.tuning.knobs import KNOBS, Knob, Operation, knob_named
from calibration.tuning.screening import Predictor, predict
from calibration.tuning.slo import SLO_FORM, Slo, parse_slo
from calibration.tuning.tune import Tuning, plain_bisection_runs, tune

__all__ = [
    "KNOBS",
    "SLO_FORM",
    "GoodputSearch",
    "Knob",
    "Measurement",
    "Operation",
    "Point",
    "Predictor",
    "Slo",
    "Tuning",
    "knob_named",
    "measure",
    "most_goodput",
    "parse_slo",
    "plain_bisection_runs",
    "predict",
    "tune",
]
