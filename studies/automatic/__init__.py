"""The answer of whoever is expected to be close enough: the cheapest method, else the engine."""

from studies.automatic.answer import BUDGET as BUDGET
from studies.automatic.answer import CHANGING as CHANGING
from studies.automatic.answer import Answer as Answer
from studies.automatic.answer import answer as answer
from studies.automatic.answer import check_limits as check_limits
from studies.automatic.asking import ENGINE as ENGINE
from studies.automatic.asking import Tried as Tried
from studies.choice import WITHIN as WITHIN
from studies.choice import closest as closest
from studies.choice import first_within as first_within
