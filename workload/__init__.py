"""Workloads: generators, and readers of request traces in the formats that are in use."""

from workload._columns import TextTable, read_text
from workload._formats import TRACE_FORMATS
from workload.description import Workload, replicated
from workload.lengths import LengthDistribution, RequestClass, mix_of
from workload.rate_shape import (
    PROFILE_FORMS,
    Constant,
    Curve,
    Ramp,
    RateShape,
    Sine,
    Steps,
    parse_profile,
)
from workload.scenarios import SCENARIOS, TYPES_FORM, describe, generate, parse_types
from workload.traces import TraceReading, read_lengths, read_trace, write_requests

__all__ = [
    "PROFILE_FORMS",
    "SCENARIOS",
    "TRACE_FORMATS",
    "TYPES_FORM",
    "Constant",
    "Curve",
    "LengthDistribution",
    "Ramp",
    "RateShape",
    "RequestClass",
    "Sine",
    "Steps",
    "TextTable",
    "TraceReading",
    "Workload",
    "describe",
    "generate",
    "mix_of",
    "parse_profile",
    "parse_types",
    "read_lengths",
    "read_text",
    "read_trace",
    "replicated",
    "write_requests",
]
