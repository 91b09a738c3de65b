"""Mean time until chance fills the memory of a node that keeps up on average.

Work arrives in portions: in one iteration the outstanding work V [token-iterations] changes by
the work of the arrivals, of mean ``lambda tau W`` and variance ``lambda tau E[w^2]``, less the
tokens C that execute. A node that is large and near capacity keeps its requests spread over their
stages, so that the tokens in memory are ``kappa V`` with ``kappa = W / E[sum_k R_k]``, R_k being
the work left at stage k. Every batch-time law gives a drift and a variance at each V; with
``tau = d_0 + d_1 C`` both are linear in V, a square-root diffusion. The mean first passage to a
full memory is the solution of

    (sigma^2 / 2) T'' + mu T' = -tau,   T'(0) = 0,   T(V_full) = 0.

Beyond the batch budget, requests in memory wait with all their work still to do: there C = B and a
token of memory is worth ``W / (E[p] + 1)`` of work. [approx]
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fluid._capacity import saturation
from fluid._moments import moments
from fluid._operating_point import operating_point
from serving import DecodeNode, FluidServeError, RequestMix, SolveError, answers

CELLS = 4000
"""Of the grid in V; within a cell the coefficients are constant and the solution is exact."""


@answers("decode_node")
def mean_time_to_full(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> float:
    """Return the mean time [time] until an empty node first has no room for the next request.

    Poisson arrivals. In mode sacrifice with nearly deterministic lengths this is the mean time
    until a healthy node collapses, a little less: the first eviction comes some time after the
    first request that does not fit.

    Parameters
    ----------
    mix, instance
        Lengths and node; an admission threshold below 1 counts as the end of the memory.
    arrival_rate : [requests/time]
        Below or above capacity.

    Returns
    -------
    float
        Infinite where it exceeds what a float64 holds.

    Raises
    ------
    FluidServeError
        If the rate is not a finite number > 0.

    Notes
    -----
    Where the node has an equilibrium, the variance of the arriving work is scaled so that the
    stationary variance of B is the exact one (section 4), which makes up for stages that are not
    spread evenly. Where most of the batch time does not grow with the arrivals, memory follows the
    work with a lag that the diffusion does not know: the time found is then early by up to 40 %.
    """
    if not 0 < arrival_rate < math.inf:
        raise FluidServeError(f"arrival_rate: {arrival_rate} is not allowed; allowed: > 0")
    per_work, square = _tokens_per_work(mix), _second_moment_of_work(mix)
    full = saturation(mix, replace(instance, B=None)).batch_tokens
    budget = min(float(instance.token_budget), full)
    last = budget / per_work + (full - budget) * mix.work / (mix.mean_prefill + 1)
    edges = np.linspace(0.0, last, CELLS + 1)
    tokens = np.minimum(per_work * 0.5 * (edges[1:] + edges[:-1]), budget)
    tau = instance.batch_time.duration(tokens, tokens * mix.mean_decode / mix.work)
    if not (tau > 0).all():  # who takes no time fills no memory
        return math.inf
    drift = arrival_rate * mix.work * tau - tokens
    variance = arrival_rate * tau * square
    variance *= _exact_over_diffusion(mix, instance, arrival_rate, per_work, square)
    return _first_passage(drift, variance, tau, last / CELLS)


def _first_passage(
    drift: NDArray[np.float64],
    variance: NDArray[np.float64],
    tau: NDArray[np.float64],
    width: float,
) -> float:
    """Return T(0) on a grid of cells of equal width: reflected at 0, over at the far end.

    ``J = -T'`` obeys ``J' = 2 tau / sigma^2 - (2 mu / sigma^2) J`` and is marched cell by cell.
    """
    rate = 2 * drift / variance * width
    source = 2 * tau / variance * width
    slope, total = 0.0, 0.0
    for r, s in zip(rate.tolist(), source.tolist(), strict=True):
        try:
            decay = math.exp(-r)
        except OverflowError:
            return math.inf
        mean_decay = -math.expm1(-r) / r if abs(r) > 1e-9 else 1.0
        # the mean of J over the cell, and J at its end
        rest = (1 - mean_decay) / r if abs(r) > 1e-4 else 0.5 - r / 6
        total += slope * mean_decay + s * rest
        slope = slope * decay + s * mean_decay
        if not math.isfinite(slope):
            return math.inf
    return total * width


def _tokens_per_work(mix: RequestMix) -> float:
    """Return kappa = W / E[sum_k R_k], R_k = sum_{l = k+1..D} (p + l), for k = 0..D - 1."""
    p, d = mix.prefill, mix.decode.astype(float)
    # sum over stages l of l times its tokens: stage l is in the work left of l stages
    left = p * d * (d + 1) / 2 + d * (d + 1) * (2 * d + 1) / 6
    return mix.work / float(mix.probability @ left)


def _second_moment_of_work(mix: RequestMix) -> float:
    d = mix.decode.astype(float)
    return float(mix.probability @ (mix.prefill * d + d * (d + 1) / 2) ** 2)


def _exact_over_diffusion(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float, per_work: float, square: float
) -> float:
    """Return the exact variance of B over that of the plain diffusion; 1 without an equilibrium."""
    law = instance.batch_time
    try:
        full = saturation(mix, instance).batch_tokens
        point = operating_point(mix, law, arrival_rate, full, idles=False)
        if point.tau <= 0:
            return 1.0
        exact = moments(mix, point.line, arrival_rate, arrival_rate * point.tau).var_batch_tokens
    except SolveError:  # no equilibrium, or too close to 1 to tell them apart
        return 1.0
    return exact / (per_work * arrival_rate * point.tau * square / (2 * (1 - point.rho)))
