"""Batch simulator: engines that decide what a real scheduler would, and records of it.

:func:`simulate` runs requests on an instance; :func:`engine_for` returns the engine itself
(:class:`Engine`), which can be advanced by batches or to a time, given other requests, saved and
resumed. Each engine has a folder of its own; its kind, in ``serving.kinds``, says where it is.
"""

from discrete._client import UNANSWERED as UNANSWERED
from discrete._client import completed as completed
from discrete._engine import Engine as Engine
from discrete._engine import Progress as Progress
from discrete._engine import Reporting as Reporting
from discrete._engine import Stop as Stop
from discrete._engine import engine_for as engine_for
from discrete._log import HELD as HELD
from discrete._log import Log as Log
from discrete._outputs import Outputs as Outputs
from discrete._records import Records as Records
from discrete._report import BATCH_REPORT as BATCH_REPORT
from discrete._report import REPORT as REPORT
from discrete._report import blank_reports as blank_reports
from discrete._run import FILES as FILES
from discrete._run import Run as Run
from discrete._simulate import simulate as simulate
from discrete._state_file import resume as resume
from discrete._state_file import save_state as save_state
