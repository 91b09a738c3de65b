"""Fluid against discrete: replications of the engine beside solutions, scored on one grid."""

from studies.comparison.comparison import Comparison as Comparison
from studies.comparison.comparison import MethodResult as MethodResult
from studies.comparison.comparison import compare as compare
from studies.comparison.ensemble import Ensemble as Ensemble
from studies.comparison.ensemble import Replications as Replications
from studies.comparison.ensemble import Told as Told
from studies.comparison.ensemble import run_ensemble as run_ensemble
