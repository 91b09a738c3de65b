"""What a node does once its memory is full: collapse, hysteresis, the regime, a threshold."""

from ode.full_memory.collapse import Collapse as Collapse
from ode.full_memory.collapse import collapsed_throughput as collapsed_throughput
from ode.full_memory.first_full import TimeToFull as TimeToFull
from ode.full_memory.first_full import time_to_full as time_to_full
from ode.full_memory.hysteresis import Hysteresis as Hysteresis
from ode.full_memory.hysteresis import hysteresis as hysteresis
from ode.full_memory.regime import REGIMES as REGIMES
from ode.full_memory.regime import edges as edges
from ode.full_memory.regime import regime as regime
from ode.full_memory.threshold import ThresholdChoice as ThresholdChoice
from ode.full_memory.threshold import choose_threshold as choose_threshold
