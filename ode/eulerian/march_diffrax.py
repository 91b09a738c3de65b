"""diffrax with error control, the accuracy reference, on the JAX form of the same symbols."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ode.eulerian.array_functions import compiled
from ode.eulerian.problem import EulerianProblem, March
from ode.eulerian.windows import SAVES, Layout, march_by_windows
from serving import SolveError

RELATIVE, ABSOLUTE = 1e-6, 1e-8
"""Tolerances; the absolute one is per request that the memory holds."""

MOST_STEPS = 100_000
"""Steps of one window."""


def march_diffrax(problem: EulerianProblem, *, max_steps: int) -> March:
    """Integrate ``problem`` with diffrax's Tsit5 and a PID controller."""
    model = problem.model.equations
    scale = ABSOLUTE * problem.values["M"] / float(problem.values["s"])
    advance = _advance(model.mode, model.transport, model.tabulated, Layout.of(problem))

    def integrate(
        times: NDArray[np.float64], arrival_rate: float, y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int, int]:
        # one shape for every window: the last time is repeated, the surplus cut off
        padded = np.concatenate([times, np.full(SAVES + 1 - times.size, times[-1])])
        states, done, steps = advance(problem.values, scale, padded, arrival_rate, y)
        if not bool(done):
            raise SolveError("eulerian_diffrax", "step_limit", f"window from t = {times[0]:g}")
        return np.array(states)[: times.size], int(steps), 6 * int(steps)

    with jax.enable_x64(True):
        return march_by_windows(problem, "eulerian_diffrax", integrate, max_steps)


@cache
def _advance(mode: str, transport: str, tabulated: bool, layout: Layout) -> Any:
    """Return the compiled solve of one window."""
    rates = compiled(mode, transport, "jax", tabulated).rates

    def slope(t: Any, y: Any, args: Any) -> Any:
        del t
        values, arrival_rate = args
        return layout.slope(rates, jnp, values, arrival_rate, y)

    @jax.jit
    def advance(values: Any, scale: Any, times: Any, arrival_rate: Any, y: Any) -> Any:
        done = diffrax.diffeqsolve(
            diffrax.ODETerm(slope),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=None,
            y0=y,
            args=(values, arrival_rate),
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=RELATIVE, atol=scale),
            max_steps=MOST_STEPS,
            throw=False,
        )
        return done.ys, done.result == diffrax.RESULTS.successful, done.stats["num_steps"]

    return advance
