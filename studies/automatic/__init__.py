"""The answer of whoever is expected to be close enough: the cheapest method, else the engine."""

from studies.automatic.answer import BUDGET as BUDGET
from studies.automatic.answer import ENGINE as ENGINE
from studies.automatic.answer import Automatic as Automatic
from studies.automatic.answer import automatic as automatic
from studies.choice import WITHIN as WITHIN
from studies.choice import closest as closest
from studies.choice import first_within as first_within
