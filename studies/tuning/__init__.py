"""What a node sustains at an objective, and which value of a knob: scanned, bisected, confirmed."""

from studies.tuning.engine import Measurement, Point, measure
from studies.tuning.goodput import GoodputSearch, most_goodput
from studies.tuning.knobs import KNOBS, Knob, Operation, knob_named
from studies.tuning.screening import Predictor, predict
from studies.tuning.slo import SLO_FORM, Slo, parse_slo
from studies.tuning.tune import Tuning, plain_bisection_runs, tune

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
