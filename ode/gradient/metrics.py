"""Metrics of a solve and their derivatives: time means, and latencies by Little's law."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from numpy.typing import NDArray

from ode.eulerian.march_jax import march_jax
from ode.eulerian.problem import EulerianProblem
from ode.eulerian.progress import evicting
from ode.gradient.march import Marched, Steps, march_with_slopes
from ode.gradient.names import OF_ALL_ARRIVALS
from ode.gradient.parameters import (
    ARRIVALS,
    LengthPath,
    values_and_slopes,
    with_a_spare_stage,
)

NEGLIGIBLE = 1e-7
"""Share of the largest in_system that counts as empty: less than a solve, slopes die later."""


def differentiated(
    problem: EulerianProblem,
    at: dict[str, float],
    parameters: tuple[str, ...],
    step: float,
    max_steps: int,
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]], int, bool]:
    """Return metrics, derivatives by ``parameters`` (P,), steps taken, whether any are evicted.

    ``at`` holds the value of every parameter.
    """
    path = LengthPath.of(problem.classes)
    problem = replace(with_a_spare_stage(problem, path), negligible=NEGLIGIBLE)
    done = march_jax(problem, step=step, max_steps=max_steps)
    steps = Steps.of(problem, done)
    with jax.enable_x64(True):
        values, slopes = values_and_slopes(problem, path, at, parameters)
        out = march_with_slopes(problem, steps, values, slopes)
    share = np.asarray(slopes[ARRIVALS])
    return *_metrics(problem, steps, out, share), steps.length.size, evicting(done)


def _metrics(
    problem: EulerianProblem,
    steps: Steps,
    out: Marched,
    share: NDArray[np.float64],
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Return metrics and their slopes (P,) from the totals; ``share`` (P,) of the arrivals."""
    horizon = float(problem.segments.edge[-1])
    arrivals = problem.segments.profile().total
    end = int(np.searchsorted(steps.start, horizon))
    inside = ("waiting", "running", "pool")
    waiting = ("waiting", "pool") if problem.model.pool == "R" else ("waiting",)
    values, slopes = {}, {}

    def add(name: str, areas: tuple[str, ...], row: int, over: float) -> None:
        values[name] = sum(float(out.totals[area][row]) for area in areas) / over
        slopes[name] = np.sum([out.totals_slopes[area][:, row] for area in areas], axis=0) / over

    add("in_system", inside, end, horizon)
    add("waiting", waiting, end, horizon)
    add("running", ("running",), end, horizon)
    add("throughput", ("completed",), end, horizon)
    add("queue_delay", ("waiting",), -1, arrivals)
    add("ttft", ("before_first_token",), -1, arrivals)
    add("e2el", inside, -1, arrivals)
    for name in OF_ALL_ARRIVALS:
        slopes[name] = slopes[name] - values[name] * share
    batches = float(out.totals["theta"][end])
    values["batch_duration"] = float(steps.length[:end].sum()) / batches
    slopes["batch_duration"] = (
        -values["batch_duration"] / batches * out.totals_slopes["theta"][:, end]
    )
    peak = int(np.argmax(out.memory))
    values["peak_memory"] = float(out.memory[peak])
    slopes["peak_memory"] = out.memory_slopes[:, peak]
    return values, slopes
