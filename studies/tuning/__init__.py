"""What a node sustains at an objective, and which value of a knob: scanned, bisected, confirmed."""

from studies.tuning.answer import Tuning, plain_bisection_runs
from studies.tuning.curve import LatencyCurve, latency_curve
from studies.tuning.engine import Measurement, Point, measure
from studies.tuning.goodput import GoodputSearch, most_goodput
from studies.tuning.knobs import MAX_RATE, Knob, at_mean_rate, knob_named, knob_of, knobs_of
from studies.tuning.screening import Predictor, predict
from studies.tuning.server_knobs import Servers, server_knob
from studies.tuning.settings import GoodputSettings, SearchSettings
from studies.tuning.slo import SLO_FORM, Slo, parse_slo
from studies.tuning.tune import tune

__all__ = [
    "MAX_RATE",
    "SLO_FORM",
    "GoodputSearch",
    "GoodputSettings",
    "Knob",
    "LatencyCurve",
    "Measurement",
    "Point",
    "Predictor",
    "SearchSettings",
    "Servers",
    "Slo",
    "Tuning",
    "at_mean_rate",
    "knob_named",
    "knob_of",
    "knobs_of",
    "latency_curve",
    "measure",
    "most_goodput",
    "parse_slo",
    "plain_bisection_runs",
    "predict",
    "server_knob",
    "tune",
]
