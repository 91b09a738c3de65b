"""Classical Runge-Kutta in a JAX scan, steps proportional to the current batch time."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ode._compile import OUTPUTS, compiled
from ode._eulerian_problem import EulerianProblem, March
from serving import SolveError

CHUNK = 256
"""Steps per call of the compiled scan."""

N, m = (OUTPUTS.index(name) - len(OUTPUTS) for name in ("N", "m"))
"""Columns of RUNNING and of the evicted, from the end of a row."""


def march_jax(problem: EulerianProblem, *, step: float, max_steps: int) -> March:
    """Integrate ``problem`` with steps of ``step`` batch times, cut at the edges of arrivals."""
    with jax.enable_x64(True):
        rows = _rows(problem, step, max_steps)
    same = np.flatnonzero(rows[:, 0] == rows[-1, 0])
    rows = rows[: same[0] + 1]
    steps = len(rows) - 1
    return March.of_rows(problem, rows, {"steps": steps, "rhs_evaluations": 4 * steps})


def _rows(problem: EulerianProblem, step: float, max_steps: int) -> NDArray[np.float64]:
    """Return time, Q, integrals and outputs at the start of each step, chunk by chunk."""
    edge, rate, jump = _padded(problem)
    totals = np.zeros(1 + len(problem.model.integrals))
    totals[0] = problem.Q + jump[0]
    carry = (0.0, 0, totals, problem.X, problem.pool)
    end = np.inf if problem.drain else problem.segments.edge[-1]
    advance = _chunk(problem.model.equations.mode)
    chunks: list[NDArray[np.float64]] = []
    peak = 0.0
    while True:
        carry, rows = advance(carry, problem.values, edge, rate, jump, step, end)
        rows = np.asarray(rows)
        chunks.append(rows)
        if not np.isfinite(rows[-1]).all():
            bad = int(np.argmin(np.isfinite(rows).all(axis=1)))
            raise SolveError(
                "eulerian_jax", "not_finite", f"the state is not finite at t = {rows[bad, 0]:g}"
            )
        inside = rows[:, 1] + rows[:, N] + rows[:, m]
        peak = max(peak, float(inside.max()))
        arrivals_ended = rows[-1, 0] >= problem.segments.edge[-1]
        if rows[-1, 0] >= end or (arrivals_ended and inside[-1] <= problem.negligible * peak):
            return np.concatenate(chunks)
        if len(chunks) * CHUNK >= max_steps:
            raise SolveError(
                "eulerian_jax", "step_limit", f"t = {rows[-1, 0]:g} after {max_steps} steps"
            )


def _padded(problem: EulerianProblem) -> tuple[NDArray[np.float64], ...]:
    """Return edges, rates and jumps at a power of two, so that few shapes are compiled."""
    segments = problem.segments
    size = max(16, 1 << int(np.ceil(np.log2(segments.edge.size + 1))))
    edge, rate, jump = np.full(size, np.inf), np.zeros(size), np.zeros(size)
    edge[: segments.edge.size] = segments.edge
    rate[: segments.rate.size] = segments.rate
    jump[: segments.edge.size] = segments.jump
    return edge, rate, jump


@cache
def _chunk(mode: str) -> Any:
    return jax.jit(partial(_advance, mode))


def _advance(
    mode: str, carry: Any, values: Any, edge: Any, rate: Any, jump: Any, step: Any, end: Any,
) -> Any:  # fmt: skip
    model = compiled(mode, "jax")

    def slope(arrival_rate: Any, totals: Any, X: Any, pool: Any) -> Any:
        (dQ, dX, dpool), growth, outputs = model.rates(values, arrival_rate, totals[0], X, pool)
        return (jnp.stack([dQ, *growth]), dX, dpool), outputs

    def one(carry: Any, _: Any) -> Any:
        t, segment, totals, X, pool = carry
        arrival_rate = rate[segment]
        y = (totals, X, pool)
        k1, outputs = slope(arrival_rate, *y)
        next_edge = jnp.minimum(edge[segment + 1], end)
        h = jnp.minimum(step * outputs[0], next_edge - t)
        k2, _ = slope(arrival_rate, *_plus(y, h / 2, k1))
        k3, _ = slope(arrival_rate, *_plus(y, h / 2, k2))
        k4, _ = slope(arrival_rate, *_plus(y, h, k3))
        new = tuple(
            u + h / 6 * (a + 2 * (b + c) + d)
            for u, a, b, c, d in zip(y, k1, k2, k3, k4, strict=True)
        )
        landed = step * outputs[0] >= edge[segment + 1] - t
        segment_after = segment + landed
        t_after = jnp.where(landed, edge[segment + 1], t + h)
        totals_after = new[0].at[0].add(jnp.where(landed, jump[segment + 1], 0.0))
        row = jnp.concatenate([jnp.stack([t]), totals, jnp.stack(outputs)])
        return (t_after, segment_after, totals_after, *new[1:]), row

    return jax.lax.scan(one, carry, None, length=CHUNK)


def _plus(y: Any, h: Any, slope: Any) -> Any:
    return tuple(u + h * v for u, v in zip(y, slope, strict=True))
