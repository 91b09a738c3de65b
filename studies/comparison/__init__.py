"""Fluid against discrete: replications of the engine beside solutions, scored on one grid.

A question goes forward through the files: ``comparison`` asks it, ``ensemble`` samples it,
``replicate`` runs it, ``gathering`` puts the replications together, ``scores`` solves the same
question by the fluid methods and says how far they are.
"""

from studies.comparison.comparison import Comparison as Comparison
from studies.comparison.comparison import compare as compare
from studies.comparison.ensemble import run_ensemble as run_ensemble
from studies.comparison.gathering import Ensemble as Ensemble
from studies.comparison.scores import MethodResult as MethodResult
from studies.comparison.settings import Replications as Replications
from studies.comparison.settings import Told as Told
