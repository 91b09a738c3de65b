"""The short tables that commands print on a terminal, each made from the result that JSON holds.

A table function takes the result of a command and returns text of at most 80 columns. What it
leaves out, JSON (``--json``) and the files of the experiment folder have.
"""

from fluidserve.tables.analysis import analysis_table as analysis_table
from fluidserve.tables.comparison import comparison_table as comparison_table
from fluidserve.tables.fits import run_fit_table as run_fit_table
from fluidserve.tables.fits import step_fit_table as step_fit_table
from fluidserve.tables.layout import plain_table as plain_table
from fluidserve.tables.listings import changes_table as changes_table
from fluidserve.tables.listings import experiment_table as experiment_table
from fluidserve.tables.listings import experiments_table as experiments_table
from fluidserve.tables.listings import profile_table as profile_table
from fluidserve.tables.listings import profiles_table as profiles_table
from fluidserve.tables.listings import statistics_table as statistics_table
from fluidserve.tables.runs import requests_table as requests_table
from fluidserve.tables.runs import run_table as run_table
from fluidserve.tables.runs import solution_table as solution_table
from fluidserve.tables.speed import speed_table as speed_table
from fluidserve.tables.tuning import tuning_table as tuning_table
from fluidserve.tables.validation import validation_table as validation_table
