"""FluidServe: what an LLM serving node will do, by a fluid model next to a discrete simulator.

Everything public is reached from here and loaded when it is first used::

    import fluidserve as fs

    node = fs.DecodeNode(M_total=10_000, B=2_000)
    requests = fs.scenarios.bursty(num_requests=1_000, arrival_rate=0.1, seed=7)
    run = fs.simulate(requests, node)
    flow = fs.solve(requests.rate_profile(), requests.mix(), node)
    flow("waiting [requests]", 500.0), flow.metrics(), run.metrics()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration import Comparison as Comparison
    from calibration import accuracy as accuracy
    from calibration import compare as compare
    from calibration import full_memory as full_memory
    from discrete import Run as Run
    from discrete import simulate as simulate
    from fluid import Certificate as Certificate
    from fluid import Equilibrium as Equilibrium
    from fluid import capacity as capacity
    from fluid import certificate as certificate
    from fluid import equations as equations
    from fluid import equilibrium as equilibrium
    from fluid import mean_time_to_full as mean_time_to_full
    from fluid import saturation_sensitivity as saturation_sensitivity
    from fluid import threshold_without_eviction as threshold_without_eviction
    from fluidserve import plots as plots
    from fluidserve import scenarios as scenarios
    from ode import Analysis as Analysis
    from ode import Gradients as Gradients
    from ode import InitialState as InitialState
    from ode import Solution as Solution
    from ode import Stationary as Stationary
    from ode import analyze as analyze
    from ode import choose_threshold as choose_threshold
    from ode import collapsed_throughput as collapsed_throughput
    from ode import gradients as gradients
    from ode import hysteresis as hysteresis
    from ode import regime as regime
    from ode import solve as solve
    from ode import stationary as stationary
    from serving import BatchTimeLaw as BatchTimeLaw
    from serving import ConfigError as ConfigError
    from serving import DecodeNode as DecodeNode
    from serving import FileAccessError as FileAccessError
    from serving import FluidServeError as FluidServeError
    from serving import LatencySamples as LatencySamples
    from serving import RateProfile as RateProfile
    from serving import RequestMix as RequestMix
    from serving import RequestTable as RequestTable
    from serving import ServingMetrics as ServingMetrics
    from serving import SolveError as SolveError
    from serving import Trajectory as Trajectory
    from serving import UnsupportedError as UnsupportedError
    from serving import WorkloadError as WorkloadError
    from workload import Workload as Workload
    from workload import describe as describe
    from workload import generate as generate
    from workload import read_trace as read_trace
    from workload import write_requests as write_requests

ROOM_OF = {
    **dict.fromkeys(("Comparison", "accuracy", "compare", "full_memory"), "calibration"),
    **dict.fromkeys(("Run", "simulate"), "discrete"),
    **dict.fromkeys(
        (
            "Certificate", "Equilibrium", "capacity", "certificate", "equations", "equilibrium",
            "mean_time_to_full", "saturation_sensitivity", "threshold_without_eviction",
        ),
        "fluid",
    ),
    **dict.fromkeys(("plots", "scenarios"), "fluidserve"),
    **dict.fromkeys(
        (
            "Analysis", "Gradients", "InitialState", "Solution", "Stationary", "analyze",
            "choose_threshold", "collapsed_throughput", "gradients", "hysteresis", "regime",
            "solve", "stationary",
        ),
        "ode",
    ),
    **dict.fromkeys(
        (
            "BatchTimeLaw", "ConfigError", "DecodeNode", "FileAccessError", "FluidServeError",
            "LatencySamples", "RateProfile", "RequestMix", "RequestTable", "ServingMetrics",
            "SolveError", "Trajectory", "UnsupportedError", "WorkloadError",
        ),
        "serving",
    ),
    **dict.fromkeys(
        ("Workload", "describe", "generate", "read_trace", "write_requests"), "workload"
    ),
}  # fmt: skip
"""Where each public name comes from."""

__all__ = [
    "Analysis",
    "BatchTimeLaw",
    "Certificate",
    "Comparison",
    "ConfigError",
    "DecodeNode",
    "Equilibrium",
    "FileAccessError",
    "FluidServeError",
    "Gradients",
    "InitialState",
    "LatencySamples",
    "RateProfile",
    "RequestMix",
    "RequestTable",
    "Run",
    "ServingMetrics",
    "Solution",
    "SolveError",
    "Stationary",
    "Trajectory",
    "UnsupportedError",
    "Workload",
    "WorkloadError",
    "accuracy",
    "analyze",
    "capacity",
    "certificate",
    "choose_threshold",
    "collapsed_throughput",
    "compare",
    "describe",
    "equations",
    "equilibrium",
    "full_memory",
    "generate",
    "gradients",
    "hysteresis",
    "mean_time_to_full",
    "plots",
    "read_trace",
    "regime",
    "saturation_sensitivity",
    "scenarios",
    "simulate",
    "solve",
    "stationary",
    "threshold_without_eviction",
    "write_requests",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in ROOM_OF:
        raise AttributeError(f"module 'fluidserve' has no attribute {name!r}")
    room = ROOM_OF[name]
    if room == "fluidserve":
        value: Any = importlib.import_module(f"fluidserve.{name}")
    else:
        value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
