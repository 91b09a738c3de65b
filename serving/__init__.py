"""The vocabulary every room shares. It names things once and computes no prediction."""

from serving.batch_time import BatchTimeLaw, Tangent
from serving.errors import (
    ConfigError,
    FileAccessError,
    FluidServeError,
    SolveError,
    UnsupportedError,
    WorkloadError,
)
from serving.instance import (
    MODES,
    QUEUE_POLICIES,
    TIME_UNITS,
    VICTIM_POLICIES,
    DecodeNode,
)
from serving.metrics import (
    LATENCIES,
    PER_REQUEST_LATENCIES,
    Distribution,
    LatencySamples,
    ServingMetrics,
)
from serving.rate_profile import RateProfile
from serving.request_mix import RequestMix
from serving.request_table import RequestTable
from serving.setting import allowed_values, setting
from serving.trajectory import NRMSE_OUTPUTS, OUTPUTS, Trajectory, output_key

__all__ = [
    "LATENCIES",
    "MODES",
    "NRMSE_OUTPUTS",
    "OUTPUTS",
    "PER_REQUEST_LATENCIES",
    "QUEUE_POLICIES",
    "TIME_UNITS",
    "VICTIM_POLICIES",
    "BatchTimeLaw",
    "ConfigError",
    "DecodeNode",
    "Distribution",
    "FileAccessError",
    "FluidServeError",
    "LatencySamples",
    "RateProfile",
    "RequestMix",
    "RequestTable",
    "ServingMetrics",
    "SolveError",
    "Tangent",
    "Trajectory",
    "UnsupportedError",
    "WorkloadError",
    "allowed_values",
    "output_key",
    "setting",
]
