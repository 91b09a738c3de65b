"""The healthy equilibrium of a node: means, second-order delays and the tails of its batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluid._capacity import saturation
from fluid._moments import Moments, moments
from serving import DecodeNode, RequestMix, SolveError


@dataclass(frozen=True, slots=True, eq=False)
class Equilibrium:
    """Stationary state under Poisson arrivals while neither memory nor B binds (section 4).

    Parameters
    ----------
    load
        lambda / lambda_M.
    rho
        Share of the batch time that grows with the arrivals: ``lambda (d_kv W + (d_decode -
        d_kv) E[D])``, which is ``lambda d_1 W`` on a decode node with one coefficient.
    idle : [time]
        Mean idle time i per iteration.
    tau : [time]
        Mean batch time ``(d_0 + rho i) / (1 - rho)``.
    batch_tokens : [tokens]
        Mean ``B* = lambda W (tau + i)`` over iterations.
    running : [requests]
        Mean ``N* = lambda E[D] (tau + i)`` over iterations.
    running_by_class : shape (J,) [requests]
    decode_time : [time]
        From admission to the last token, mean of all requests, second order.
    decode_time_by_class : shape (J,) [time]
    wait : [time]
        Mean wait for the next batch boundary, second order.
    moments
        Second moments over iterations.
    """

    load: float
    rho: float
    idle: float
    tau: float
    batch_tokens: float
    running: float
    running_by_class: NDArray
    decode_time: float
    decode_time_by_class: NDArray[np.float64]
    wait: float
    moments: Moments

    @property
    def var_batch_tokens(self) -> float:
        """Var B over iterations [tokens^2]."""
        return self.moments.var_batch_tokens

    def batch_tokens_quantile(self, probability: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles [tokens] of the batch size, as Gamma with its two moments."""
        return gamma_quantiles(self.batch_tokens, self.var_batch_tokens, probability)

    def chance_beyond(self, tokens: float) -> float:
        """Return the share of iterations beyond ``tokens``, Gamma with the two moments."""
        from scipy.special import gammaincc

        scale = self.var_batch_tokens / self.batch_tokens
        return float(gammaincc(self.batch_tokens / scale, tokens / scale))


def gamma_quantiles(mean: float, variance: float, probability: ArrayLike) -> NDArray[np.float64]:
    """Return quantiles of the Gamma distribution with the given two moments.

    Parameters
    ----------
    mean, variance
        Both > 0.
    probability : shape (Q,)
    """
    from scipy.special import gammaincinv

    scale = variance / mean
    return gammaincinv(mean / scale, np.asarray(probability, float)) * scale


def equilibrium(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> Equilibrium:
    """Return the healthy equilibrium of ``instance`` under Poisson arrivals (section 4).

    Without idling the means and second moments are exact for the chain in which every request
    executes from the batch after its arrival on; a binding memory or batch budget is not in it
    (:meth:`Equilibrium.chance_beyond` says how often one would bind). The idle time and what it
    takes from the second moments are approximations for a node of a few running requests, right
    in the limits of light and of heavy traffic.

    Parameters
    ----------
    mix, instance
        Lengths by class, and the node.
    arrival_rate : [requests/time]
        lambda > 0.

    Raises
    ------
    SolveError
        If load >= 1: the backlog grows and there is no equilibrium.
    """
    if not (math.isfinite(arrival_rate) and arrival_rate > 0):
        raise SolveError("equilibrium", "arrival_rate", f"{arrival_rate} is not a number > 0")
    law = instance.batch_time
    slope = law.d_kv * mix.work + law.per_request_extra * mix.mean_decode
    load, rho = arrival_rate / saturation(mix, instance).throughput, arrival_rate * slope
    if load >= 1 or rho >= 1:
        raise SolveError("equilibrium", "overload", f"load is {load:.4f}, the backlog grows")
    idle = _mean_idle(law.d_0, rho, arrival_rate, mix.mean_decode)
    tau = (law.d_0 + rho * idle) / (1 - rho)
    clock = arrival_rate * (tau + idle)
    which = np.unique(mix.request_class, return_inverse=True)[1]
    share = np.bincount(which, weights=mix.probability)
    tokens = np.bincount(which, weights=mix.probability * mix.decode)
    second = _of_batches_only(
        moments(mix, law, arrival_rate, clock), clock * mix.work, clock * tokens, tau - law.d_0
    )
    in_service = clock * tokens * tau + second.cov_running_time  # E[N_j tau] per iteration
    by_class = in_service / (clock * share)
    return Equilibrium(
        load=load,
        rho=rho,
        idle=idle,
        tau=tau,
        batch_tokens=clock * mix.work,
        running=clock * mix.mean_decode,
        running_by_class=clock * tokens,
        decode_time=float(share @ by_class),
        decode_time_by_class=by_class,
        wait=(tau**2 + second.var_batch_time) / (2 * (tau + idle)),
        moments=second,
    )


def _mean_idle(d_0: float, rho: float, arrival_rate: float, mean_decode: float) -> float:
    """Return the mean idle time i per iteration, approximately.

    A node is idle when nobody arrived within the last sojourn. As in an infinite-server queue the
    idle share of time is ``f = exp(-lambda (E[D] tau + (1 - f) tau / 2))``: requests stay E[D]
    iterations and, unless they found the node idle, wait half of one; ``i = tau f / (1 - f)``.
    """
    from scipy.optimize import brentq

    def batch_time(share: float) -> float:  # tau = (d_0 + rho i) / (1 - rho)
        return d_0 * (1 - share) / (1 - rho - share)

    def missing(share: float) -> float:
        stay = batch_time(share) * (mean_decode + (1 - share) / 2)
        return math.exp(-arrival_rate * stay) - share

    # never idle for more than 1 - rho: there batches would last for ever
    most = (1 - rho) * (1 - 1e-12)
    share: Any = brentq(missing, 0.0, most, xtol=1e-15) if missing(most) < 0 else most
    tau = batch_time(share)
    return tau * share / (1 - share)


def _of_batches_only(
    second: Moments, tokens: float, running: NDArray, extra_time: float
) -> Moments:
    """Take the empty iterations out of second moments; there is no batch without a request.

    The moments are those of a clock that ticks on while nobody is there. With N nearly Poisson
    (mean N_0) on that clock a share ``p_0 = exp(-N_0)`` of the ticks is empty, and given a batch
    ``N* = N_0 / (1 - p_0)``. Means given a batch, of X and of X Y alike, are larger by that
    factor, hence ``Cov(X, Y) -> Cov(X, Y) - p_0 E[X] E[Y]``.
    """
    count = float(running.sum())
    ticking = count
    for _ in range(200):
        before, ticking = ticking, -count * math.expm1(-ticking)
        if before - ticking < 1e-12:
            break
    empty = math.exp(-ticking)
    return Moments(
        var_batch_tokens=max(0.0, second.var_batch_tokens - empty * tokens**2),
        var_running=max(0.0, second.var_running - empty * count**2),
        cov_running_tokens=second.cov_running_tokens - empty * count * tokens,
        var_batch_time=max(0.0, second.var_batch_time - empty * extra_time**2),
        cov_running_time=second.cov_running_time - empty * running * extra_time,
    )
