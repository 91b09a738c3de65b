"""Marches a back end that has its own error control, window by window between arrival edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ode.eulerian.array_functions import OUTPUTS
from ode.eulerian.problem import EulerianProblem, March
from serving import SolveError

SAVES = 128
"""Saved times in a window; a window is at most as many current batch times long."""


class Integrate(Protocol):
    """Integrates ``y`` over ``times`` under a constant arrival rate.

    Returns states (T, n) at ``times`` (the first is the start), steps and evaluations.
    """

    def __call__(
        self, times: NDArray[np.float64], arrival_rate: float, y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int, int]:
        """Return the states and the cost."""
        ...


def march_by_windows(
    problem: EulerianProblem, method: str, integrate: Integrate, max_steps: int
) -> March:
    """Integrate ``problem``; raises SolveError as every back end does."""
    segments, state = problem.segments, _Reporter(problem)
    y = state.initial()
    t, segment, peak = 0.0, 0, 0.0
    rows: list[NDArray[np.float64]] = []
    steps = evaluations = 0
    while True:
        last = segment >= segments.rate.size
        arrival_rate = 0.0 if last else float(segments.rate[segment])
        tau = state.row(t, y, arrival_rate)[state.column("tau")]
        if not np.isfinite(tau):
            raise SolveError(method, "not_finite", f"the batch time is not finite at t = {t:g}")
        end = np.inf if last else segments.edge[segment + 1]
        landed = end - t <= SAVES * tau
        times = np.linspace(t, end if landed else t + SAVES * tau, _saves(end - t, tau))
        states, took, evaluated = integrate(times, arrival_rate, y)
        steps, evaluations = steps + took, evaluations + evaluated
        if not np.isfinite(states).all():
            raise SolveError(method, "not_finite", f"the state is not finite after t = {t:g}")
        if steps > max_steps:
            raise SolveError(method, "step_limit", f"t = {t:g} after {max_steps} steps")
        rows += [state.row(*pair, arrival_rate) for pair in zip(times, states, strict=True)]
        t, y = float(times[-1]), states[-1].copy()
        inside = max(state.inside(row) for row in rows[-times.size :])
        peak = max(peak, inside)
        if landed:
            segment += 1
            if segment < segments.jump.size:
                y[0] += segments.jump[segment]
        if segment >= segments.rate.size and (
            not problem.drain or state.inside(rows[-1]) <= problem.negligible * peak
        ):
            rows.append(state.row(t, y, 0.0))
            stats = {"steps": float(steps), "rhs_evaluations": float(evaluations)}
            return March.of_rows(problem, np.array(rows), stats)


def _saves(length: float, tau: float) -> int:
    return int(np.clip(np.ceil(length / tau), 1, SAVES)) + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where Q, the integrals, X and the evicted are in one state vector.

    Parameters
    ----------
    totals
        Q and the integrals come first, so many.
    X, pool
        Shapes of RUNNING and of the evicted.
    """

    totals: int
    X: tuple[int, ...]
    pool: tuple[int, ...]

    @classmethod
    def of(cls, problem: EulerianProblem) -> Layout:
        """Return the layout of a problem."""
        return cls(1 + len(problem.model.integrals), problem.X.shape, problem.pool.shape)

    def unpacked(self, y: Any) -> tuple[Any, Any, Any]:
        """Return Q, X and the evicted of a vector."""
        last = self.totals + math.prod(self.X)
        return y[0], y[self.totals : last].reshape(self.X), y[last:].reshape(self.pool)

    def slope(self, rates: Any, xp: Any, values: Any, arrival_rate: Any, y: Any) -> Any:
        """Return dy/dt by compiled ``rates`` of the array module ``xp``."""
        (dQ, dX, dpool), growth, _ = rates(values, arrival_rate, *self.unpacked(y))
        return xp.concatenate([xp.stack([dQ, *growth]), dX.ravel(), dpool.ravel()])


class _Reporter:
    """Reads rows (time, Q, integrals, outputs) off state vectors."""

    def __init__(self, problem: EulerianProblem) -> None:
        self._problem, self._layout = problem, Layout.of(problem)
        self._names = ("t", "Q", *problem.model.integrals, *OUTPUTS)

    def initial(self) -> NDArray[np.float64]:
        """Return the vector at time 0."""
        problem = self._problem
        totals = np.zeros(self._layout.totals)
        totals[0] = problem.Q + problem.segments.jump[0]
        return np.concatenate([totals, problem.X.ravel(), problem.pool.ravel()])

    def row(self, t: float, y: NDArray[np.float64], arrival_rate: float) -> NDArray[np.float64]:
        """Return time, Q, integrals and outputs."""
        problem, state = self._problem, self._layout.unpacked(y)
        *_, outputs = problem.model.rates(problem.values, arrival_rate, *state)
        return np.concatenate([[t], y[: self._layout.totals], outputs])

    def column(self, name: str) -> int:
        """Return the column of a row that holds ``name``."""
        return self._names.index(name)

    def inside(self, row: NDArray[np.float64]) -> float:
        """Return the requests in the system."""
        return float(sum(row[self.column(name)] for name in ("Q", "N", "m")))
