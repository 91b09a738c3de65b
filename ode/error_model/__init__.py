"""How far off an answer is expected to be: features of a question, and what was learnt of them."""

from ode.error_model.model import Expected as Expected
from ode.error_model.report import ErrorReport as ErrorReport
from ode.error_model.report import error_report as error_report
