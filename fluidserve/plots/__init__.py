"""Pictures: one file each, one style, written as PNG without a display."""

from fluidserve.plots._comparison import curves_of
from fluidserve.plots._elasticities import elasticities
from fluidserve.plots._finite_size import finite_size
from fluidserve.plots._fluid_vs_discrete import fluid_vs_discrete
from fluidserve.plots._full_memory import full_memory
from fluidserve.plots._phase_diagram import phase_diagram
from fluidserve.plots._request_timeline import Timeline, request_timeline, sample_rows
from fluidserve.plots._step_times import step_time_fit, step_time_residuals
from fluidserve.plots._style import STYLE, Curve
from fluidserve.plots._system_dynamics import pressure_spans, system_dynamics
from fluidserve.plots._tails import tails

__all__ = [
    "STYLE",
    "Curve",
    "Timeline",
    "curves_of",
    "elasticities",
    "finite_size",
    "fluid_vs_discrete",
    "full_memory",
    "phase_diagram",
    "pressure_spans",
    "request_timeline",
    "sample_rows",
    "step_time_fit",
    "step_time_residuals",
    "system_dynamics",
    "tails",
]
