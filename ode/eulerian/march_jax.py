"""Classical Runge-Kutta in a JAX scan, steps proportional to the current batch time."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ode.eulerian.array_functions import OUTPUTS, compiled
from ode.eulerian.problem import EulerianProblem, March
from serving import SolveError

CHUNK = 512
"""Steps per call of the compiled scan."""

NEARLY_FULL = 0.95
"""Share of memory, or of what admission may fill, from which steps are halved."""

N, m = (OUTPUTS.index(name) - len(OUTPUTS) for name in ("N", "m"))
"""Columns of RUNNING and of the evicted, from the end of a row."""


def march_jax(problem: EulerianProblem, *, step: float, max_steps: int) -> March:
    """Integrate ``problem`` with steps of ``step`` batch times, cut at the edges of arrivals."""
    with jax.enable_x64(True):
        rows = _rows(problem, step, max_steps)
    same = np.flatnonzero(rows[:, 0] == rows[-1, 0])
    rows = rows[: same[0] + 1]
    steps = len(rows) - 1
    if steps > max_steps:
        raise _too_many(rows[max_steps, 0], max_steps)
    return March.of_rows(problem, rows, {"steps": steps, "rhs_evaluations": 4 * steps})


def _rows(problem: EulerianProblem, step: float, max_steps: int) -> NDArray[np.float64]:
    """Return time, Q, integrals and outputs at the start of each step, chunk by chunk."""
    edge, rate, jump = _padded(problem)
    totals = np.zeros(1 + len(problem.model.integrals))
    totals[0] = problem.Q + jump[0]
    # with types of their own: plain numbers would have the scan compiled once more for its results
    begun = (np.float64(0.0), np.int64(0), totals, problem.X, problem.pool)
    end = np.inf if problem.drain else problem.segments.edge[-1]
    model = problem.model.equations
    advance = _chunk(model.mode, model.transport, model.tabulated)
    # on the device once: converting the arguments would cost more than some chunks
    carry: Any = jax.device_put(begun)
    fixed = jax.device_put((problem.values, edge, rate, jump, step, end, problem.nobody))
    chunks: list[NDArray[np.float64]] = []
    peak = 0.0
    while True:
        carry, rows = advance(carry, *fixed)
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
            raise _too_many(rows[-1, 0], max_steps)


def _too_many(t: float, max_steps: int) -> SolveError:
    reason = f"t = {t:g} after {max_steps} steps; allow more by max_steps"
    return SolveError("eulerian_jax", "step_limit", reason)


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
def _chunk(mode: str, transport: str, tabulated: bool) -> Any:
    """Return the compiled scan of CHUNK steps."""
    rates = compiled(mode, transport, "jax", tabulated).rates
    return jax.jit(partial(_advance, rates))


def _advance(
    rates: Any, carry: Any, values: Any, edge: Any, rate: Any, jump: Any, step: Any, end: Any,
    nobody: Any,
) -> Any:  # fmt: skip
    """Take CHUNK steps; over an interval without arrivals an empty node takes none."""

    def slope(arrival_rate: Any, y: Any) -> Any:
        (dQ, dX, dpool), growth, outputs = rates(values, arrival_rate, y[0][0], *y[1:])
        return (jnp.stack([dQ, *growth]), dX, dpool), outputs

    def one(carry: Any, _: Any) -> Any:
        t, segment, *y = carry
        k1, outputs = slope(rate[segment], y)
        h = step * outputs[OUTPUTS.index("tau")] * _caution(values, outputs)
        to_edge = edge[segment + 1] - t
        inside = y[0][0] + outputs[N] + outputs[m]
        waits = (rate[segment] == 0) & jnp.isfinite(to_edge)
        idle = waits & (inside <= nobody)
        landed = (h >= to_edge) | idle
        h = jnp.where(idle, 0.0, jnp.minimum(jnp.minimum(h, to_edge), end - t))
        k2, _ = slope(rate[segment], _plus(y, h / 2, k1))
        k3, _ = slope(rate[segment], _plus(y, h / 2, k2))
        k4, _ = slope(rate[segment], _plus(y, h, k3))
        totals, *fields = (
            u + h / 6 * (a + 2 * (b + c) + d)
            for u, a, b, c, d in zip(y, k1, k2, k3, k4, strict=True)
        )
        row = jnp.concatenate([jnp.stack([t]), y[0], jnp.stack(outputs)])
        t = jnp.where(landed, edge[segment + 1], t + h)
        segment = segment + landed
        totals = totals.at[0].add(jnp.where(landed, jump[segment], 0.0))
        return (t, segment, totals, *fields), row

    return jax.lax.scan(one, carry, None, length=CHUNK)


def _caution(values: Any, outputs: Any) -> Any:
    """Return the share of a full step to take: cohorts are cut sharply where a limit binds."""
    tokens, full = outputs[OUTPUTS.index("U")], NEARLY_FULL * values["M"]
    binds = (tokens > values["B"]) | (tokens > full)
    binds |= tokens - outputs[OUTPUTS.index("N")] > values["kappa"] * full
    return jnp.where(binds, 0.5, 1.0)


def _plus(y: Any, h: Any, slope: Any) -> list[Any]:
    return [u + h * v for u, v in zip(y, slope, strict=True)]
