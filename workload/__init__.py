"""The room workload draws requests at random and reads request traces of common formats."""

from workload._columns import TextTable as TextTable
from workload._formats import TRACE_FORMATS as TRACE_FORMATS
from workload._text import read_text as read_text
from workload.description import Workload as Workload
from workload.description import replicated as replicated
from workload.description import replication_seed as replication_seed
from workload.lengths import LengthDistribution as LengthDistribution
from workload.lengths import RequestClass as RequestClass
from workload.lengths import mix_of as mix_of
from workload.rate_shape import RATE_SHAPE_FORMS as RATE_SHAPE_FORMS
from workload.rate_shape import Constant as Constant
from workload.rate_shape import Curve as Curve
from workload.rate_shape import Ramp as Ramp
from workload.rate_shape import RateShape as RateShape
from workload.rate_shape import Sine as Sine
from workload.rate_shape import Steps as Steps
from workload.rate_shape import parse_rate_shape as parse_rate_shape
from workload.scenarios import SCENARIOS as SCENARIOS
from workload.scenarios import TYPES_FORM as TYPES_FORM
from workload.scenarios import describe as describe
from workload.scenarios import generate as generate
from workload.scenarios import parse_types as parse_types
from workload.traces import TraceReading as TraceReading
from workload.traces import read_lengths as read_lengths
from workload.traces import read_trace as read_trace
from workload.written import write_requests as write_requests
