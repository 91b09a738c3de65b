"""SciPy's explicit Runge-Kutta with error control, on the NumPy form of the same symbols."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from ode.eulerian.problem import EulerianProblem, March
from ode.eulerian.windows import Layout, march_by_windows
from serving import SolveError

RELATIVE, ABSOLUTE = 1e-5, 1e-7
"""Tolerances; the absolute one is per request that the memory holds."""


def march_scipy(problem: EulerianProblem, *, max_steps: int) -> March:
    """Integrate ``problem`` with ``solve_ivp`` (Dormand-Prince 5(4))."""
    layout, rates = Layout.of(problem), problem.model.rates
    scale = ABSOLUTE * problem.values["M"] / float(problem.values["s"])

    def integrate(
        times: NDArray[np.float64], arrival_rate: float, y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int, int]:
        done = solve_ivp(
            lambda _, y: layout.slope(rates, np, problem.values, arrival_rate, y),
            (times[0], times[-1]),
            y,
            method="RK45",
            t_eval=times,
            rtol=RELATIVE,
            atol=scale,
        )
        if not done.success or len(done.t) < len(times):
            raise SolveError("eulerian_scipy", "step_size", done.message)
        return done.y.T, done.nfev // 6, done.nfev

    return march_by_windows(problem, "eulerian_scipy", integrate, max_steps)
