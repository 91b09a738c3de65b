"""Runge-Kutta along the steps of a solve, with derivatives: forward mode through the scan.

The steps themselves are not differentiated. Where they end is a choice of the solver, not part of
the model, and the solution does not depend on it but for the error of the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ode.eulerian.array_functions import OUTPUTS, compiled
from ode.eulerian.problem import EulerianProblem, March
from ode.gradient.parameters import ARRIVALS

CHUNK = 256
"""Steps per call of the compiled scan; the last call is filled with steps of no time."""

N, U, m = (OUTPUTS.index(name) for name in ("N", "U", "m"))
STAGES = np.array([0, 1 / 2, 1 / 2, 1]), np.array([1, 2, 2, 1]) / 6
"""Classical Runge-Kutta: how far along the slope before a stage goes, and its weight.

A loop over the stages, not their text four times: compiled code of derivatives is large.
"""

AREAS = ("waiting", "running", "pool", "before_first_token")
"""Numbers of requests that are integrated over time, beyond the totals of the equations."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of a solve, shape (T,) each.

    Parameters
    ----------
    start : shape (T + 1,) [time]
        Where they start, and the end of the last.
    length : [time]
        0 where an empty node waits for the next arrivals.
    rate : [requests/time]
    jump : [requests]
        Arrivals at the end of each.
    first : [requests]
        Arrivals at time 0.
    """

    start: NDArray[np.float64]
    length: NDArray[np.float64]
    rate: NDArray[np.float64]
    jump: NDArray[np.float64]
    first: float

    @classmethod
    def of(cls, problem: EulerianProblem, done: March) -> Steps:
        """Return the steps that ``done`` took."""
        segments, time = problem.segments, done.time
        at = np.searchsorted(segments.edge, time, side="right") - 1
        landed = np.diff(at) > 0
        rate = np.append(segments.rate, 0.0)[at[:-1]]
        inside = (done["Q"] + done["N"] + done["m"])[:-1]
        idle = landed & (rate == 0) & (inside <= problem.nobody)
        return cls(
            start=time,
            length=np.where(idle, 0.0, np.diff(time)),
            rate=rate,
            jump=np.where(landed, segments.jump[at[1:]], 0.0),
            first=float(segments.jump[0]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Marched:
    """Totals and memory at the start of each step and at the end, with their derivatives.

    Parameters
    ----------
    totals : mapping to arrays of shape (T + 1,)
        The integrals of the equations by code name, and :data:`AREAS`.
    memory : shape (T + 1,) [tokens]
    totals_slopes : mapping to arrays of shape (P, T + 1)
    memory_slopes : shape (P, T + 1)
    """

    totals: dict[str, NDArray[np.float64]]
    memory: NDArray[np.float64]
    totals_slopes: dict[str, NDArray[np.float64]]
    memory_slopes: NDArray[np.float64]


def march_with_slopes(
    problem: EulerianProblem, steps: Steps, values: dict[str, Any], slopes: dict[str, Any]
) -> Marched:
    """Integrate ``problem`` over ``steps`` with the derivatives by P parameters.

    Parameters
    ----------
    values, slopes
        What the equations need, and its derivatives, stacked in front.
    """
    model = problem.model.equations
    advance = _chunk(model.mode, model.transport, model.tabulated)
    names = ("Q", *problem.model.integrals, *AREAS)
    number = next(iter(slopes.values())).shape[0]
    totals = np.zeros(len(names))
    totals[0] = problem.Q + steps.first
    carry: Any = (totals, problem.X, problem.pool)
    moving: Any = jax.tree.map(lambda x: np.zeros((number, *np.shape(x))), carry)
    moving[0][:, 0] = steps.first * np.asarray(slopes[ARRIVALS])
    count = steps.length.size
    fill = -(count + 1) % CHUNK + 1  # at least one step of no time shows the end
    inputs = [np.pad(x, (0, fill)) for x in (steps.length, steps.rate, steps.jump)]
    rows, moving_rows = [], []
    for at in range(0, count + fill, CHUNK):
        part = tuple(x[at : at + CHUNK] for x in inputs)
        (carry, row), (moving, moving_row) = advance(carry, moving, values, slopes, part)
        rows.append(np.asarray(row))
        moving_rows.append(np.asarray(moving_row))
    row = np.concatenate(rows)[: count + 1].T
    moved = np.concatenate(moving_rows, axis=1)[:, : count + 1].swapaxes(1, 2)
    return Marched(
        totals=dict(zip(names, row[:-1], strict=True)),
        memory=row[-1],
        totals_slopes={name: moved[:, k] for k, name in enumerate(names)},
        memory_slopes=moved[:, -1],
    )


@cache
def _chunk(mode: str, transport: str, tabulated: bool) -> Any:
    """Return the compiled scan of CHUNK steps and its derivatives."""
    model = compiled(mode, transport, "jax", tabulated)
    at = {name: 1 + k for k, name in enumerate(model.integrals)}
    return jax.jit(partial(_advance_with_slopes, partial(_advance, model.rates, at, model.pool)))


def _advance_with_slopes(
    advance: Any, carry: Any, moving: Any, values: Any, slopes: Any, steps: Any
) -> Any:
    def along(moving: Any, slopes: Any) -> Any:
        return jax.jvp(lambda *x: advance(*x, steps), (carry, values), (moving, slopes))

    return jax.vmap(along, out_axes=(None, 0))(moving, slopes)


def _advance(rates: Any, at: dict[str, int], pool: str, carry: Any, values: Any, steps: Any) -> Any:
    """Take the steps; yield the state and, at the start of each, totals and memory."""

    def slope(arrival_rate: Any, y: Any) -> Any:
        totals, X, evicted = y
        (dQ, dX, dpool), growth, outputs = rates(values, arrival_rate, totals[0], X, evicted)
        inside = totals[0] + outputs[N] + outputs[m]
        before = inside + totals[at["completed"]] - totals[at["first_tokens"]]
        if pool == "R":  # those evicted with progress pass once more; so far, these have not
            again = totals[at["evicted"]] - totals[at["evicted_fresh"]]
            share = again / jnp.maximum(totals[at["evicted"]], 1e-9)
            before = before + again - share * outputs[m]
        areas = (totals[0], outputs[N], outputs[m], before)
        return (jnp.stack([dQ, *growth, *areas]), dX, dpool), outputs

    def one(y: Any, step: Any) -> Any:
        h, rate, jump = step

        def stage(carry: Any, part: Any) -> Any:
            new, k = carry
            share, weight = part
            k, outputs = slope(values[ARRIVALS] * rate, _plus(y, share * h, k))
            return (_plus(new, weight * h, k), k), outputs[U] - outputs[N]

        (new, _), memory = jax.lax.scan(stage, (y, y), STAGES)
        row = jnp.append(y[0], memory[0])
        totals, *fields = new
        return (totals.at[0].add(values[ARRIVALS] * jump), *fields), row

    return jax.lax.scan(one, carry, steps)


def _plus(y: Any, h: Any, slope: Any) -> Any:
    return jax.tree.map(lambda u, v: u + h * v, y, slope)
