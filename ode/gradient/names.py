"""Which metrics a solve can be differentiated for, and by which parameters."""

from __future__ import annotations

from fluid import PARAMETER_UNITS

PARAMETERS = tuple(PARAMETER_UNITS)
"""Parameters that :func:`ode.gradients` knows, those of :data:`fluid.PARAMETER_UNITS`."""

METRICS = {
    "in_system": "requests",
    "waiting": "requests",
    "running": "requests",
    "batch_duration": "time",
    "throughput": "requests/time",
    "peak_memory": "tokens",
    "queue_delay": "time",
    "ttft": "time",
    "e2el": "time",
}
"""Metrics that :func:`ode.gradients` knows, with their units."""

OF_ALL_ARRIVALS = ("queue_delay", "ttft", "e2el")
"""Metrics that need every request to finish."""
