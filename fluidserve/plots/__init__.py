"""Draw pictures in one style and write each as a PNG file without a display."""

from fluidserve.plots.comparison_curves import curves_of as curves_of
from fluidserve.plots.dynamics import pressure_spans as pressure_spans
from fluidserve.plots.dynamics import system_dynamics as system_dynamics
from fluidserve.plots.elasticity_bars import elasticities as elasticities
from fluidserve.plots.latency_curves import latency_curves as latency_curves
from fluidserve.plots.memory_loop import full_memory as full_memory
from fluidserve.plots.regime_map import phase_diagram as phase_diagram
from fluidserve.plots.server_regimes import server_regimes as server_regimes
from fluidserve.plots.size_errors import finite_size as finite_size
from fluidserve.plots.step_times import step_time_fit as step_time_fit
from fluidserve.plots.step_times import step_time_residuals as step_time_residuals
from fluidserve.plots.style import STYLE as STYLE
from fluidserve.plots.style import Curve as Curve
from fluidserve.plots.style import factors as factors
from fluidserve.plots.tail_curves import tails as tails
from fluidserve.plots.timeline import Timeline as Timeline
from fluidserve.plots.timeline import request_timeline as request_timeline
from fluidserve.plots.timeline import sample_rows as sample_rows
from fluidserve.plots.trajectories import fluid_vs_discrete as fluid_vs_discrete
from fluidserve.plots.validation import measured_vs_predicted as measured_vs_predicted
