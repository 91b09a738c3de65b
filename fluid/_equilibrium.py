"""The healthy equilibrium of a node: means, second-order delays and the tails of its batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluid._capacity import fastest_batch, saturation
from fluid._moments import Moments, moments
from fluid._operating_point import OperatingPoint, check_takes_time, operating_point
from fluid._statistical_line import Spread
from serving import BatchTimeLaw, DecodeNode, RequestMix, SolveError, Tangent, answers
from serving.arguments import checked

STEPS = 60
"""Iterations of the line and the variance of the requests at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Equilibrium:
    """Stationary state under Poisson arrivals while neither memory nor B binds (section 4).

    Parameters
    ----------
    load
        lambda / lambda_M.
    rho
        Share of the batch time that grows with the arrivals: ``lambda (per_token W + per_request
        E[D])`` of ``line``, which is ``lambda d_1 W`` on a decode node with one coefficient.
    idle : [time]
        Mean idle time i per iteration.
    tau : [time]
        Mean batch time, ``(d_0 + rho i) / (1 - rho)`` where the law is affine.
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
    line
        The affine law that stands for the batch-time law here: the law itself where it is affine,
        else its statistical line over the requests of a batch.
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
    line: Tangent

    @property
    def var_batch_tokens(self) -> float:
        """Var B over iterations [tokens^2]."""
        return self.moments.var_batch_tokens

    @checked(probability=">= 0 and <= 1")
    def batch_tokens_quantile(self, probability: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles [tokens] of the batch size, as Gamma with its two moments."""
        return gamma_quantiles(self.batch_tokens, self.var_batch_tokens, probability)

    @checked()
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


@answers("decode_node")
def equilibrium(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> Equilibrium:
    """Return the healthy equilibrium of ``instance`` under Poisson arrivals (section 4).

    Without idling the means and second moments are exact for the chain in which every request
    executes from the batch after its arrival on; a binding memory or batch budget is not in it
    (:meth:`Equilibrium.chance_beyond` says how often one would bind). The idle time and what it
    takes from the second moments are approximations for a node of a few running requests, right
    in the limits of light and of heavy traffic. Under a law with a table the line that stands for
    it is an approximation too, exact where no batch reaches a bend.

    Parameters
    ----------
    mix, instance
        Lengths by class, and the node.
    arrival_rate : [requests/time]
        lambda > 0.

    Raises
    ------
    SolveError
        If load >= 1: the backlog grows and there is no equilibrium; or if an empty batch takes no
        time.
    """
    if not (math.isfinite(arrival_rate) and arrival_rate > 0):
        raise SolveError("equilibrium", "arrival_rate", f"{arrival_rate} is not a number > 0")
    check_takes_time(instance.batch_time, "equilibrium")
    full = saturation(mix, instance)
    load = arrival_rate / full.throughput
    if load >= 1:
        raise SolveError("equilibrium", "overload", _overload(mix, instance, load))
    which = np.unique(mix.request_class, return_inverse=True)[1]
    share = np.bincount(which, weights=mix.probability)
    decoded = np.asarray(np.bincount(which, mix.probability * mix.decode), float)
    point, second = _with_chance(mix, instance.batch_time, arrival_rate, full.batch_tokens, decoded)
    tau, idle = point.tau, point.idle
    entering = arrival_rate * point.cycle
    in_service = entering * decoded * tau + second.cov_running_time  # E[N_j tau] per iteration
    by_class = in_service / (entering * share)
    return Equilibrium(
        load=load,
        rho=point.rho,
        idle=idle,
        tau=tau,
        batch_tokens=entering * mix.work,
        running=entering * mix.mean_decode,
        running_by_class=entering * decoded,
        decode_time=float(share @ by_class),
        decode_time_by_class=by_class,
        wait=(tau**2 + second.var_batch_time) / (2 * (tau + idle)),
        moments=second,
        line=point.line,
    )


def _overload(mix: RequestMix, instance: DecodeNode, load: float) -> str:
    """Return in words that the node has no equilibrium, and whether a smaller batch would help."""
    full, best = saturation(mix, instance), fastest_batch(mix, instance)
    words = f"load is {load:.5g}, the backlog grows"
    if best is not full:
        words += (
            f"; the batch-time law bends upwards: batches of {best.batch_tokens:.0f} tokens "
            f"complete {best.throughput / full.throughput - 1:.1%} more than full ones, give B"
        )
    return words


def _with_chance(
    mix: RequestMix,
    law: BatchTimeLaw,
    arrival_rate: float,
    most_tokens: float,
    decoded: NDArray[np.float64],
) -> tuple[OperatingPoint, Moments]:
    """Return the operating point and second moments, which agree on how the requests vary.

    An affine law is its own statistical line. Another one has a line that depends on the variance
    of the requests, which depends on the line: the two are iterated, from the tangent on.
    """
    point = operating_point(mix, law, arrival_rate, most_tokens)
    second = _moments_at(mix, point, arrival_rate, decoded)
    if law.is_affine:
        return point, second
    variance = second.var_running
    for step in range(STEPS):
        spread = Spread.of(arrival_rate * point.cycle * mix.mean_decode, variance)
        last = point
        found = operating_point(mix, law, arrival_rate, most_tokens, spread=spread)
        if found.rho >= 1:  # steeper by regression than the node could follow: keep the last line
            break
        point, second = found, _moments_at(mix, found, arrival_rate, decoded)
        variance += (second.var_running - variance) * (1.0 if step < STEPS // 4 else 0.5)
        if abs(point.cycle - last.cycle) < 1e-11 * last.cycle:
            break
    return point, second


def _moments_at(
    mix: RequestMix, point: OperatingPoint, arrival_rate: float, decoded: NDArray[np.float64]
) -> Moments:
    entering = arrival_rate * point.cycle
    ticking = moments(mix, point.line, arrival_rate, entering)
    grown = point.tau - point.line.at_nothing
    return _of_batches_only(ticking, entering * mix.work, entering * decoded, grown)


def _of_batches_only(
    second: Moments, tokens: float, running: NDArray, extra_time: float
) -> Moments:
    """Take the empty iterations out of second moments; there is no batch without a request.

    The moments are those of a clock that ticks on while nobody is there. With N nearly Poisson
    (mean N_0) on that clock a share ``p_0 = exp(-N_0)`` of the ticks is empty, and given a batch
    ``N* = N_0 / (1 - p_0)``. Means given a batch, of X and of X Y alike, are larger by that
    factor, hence ``Cov(X, Y) -> Cov(X, Y) - p_0 E[X] E[Y]``.
    """
    from scipy.special import lambertw

    count = float(running.sum())
    # N_0 = count (1 - exp(-N_0)); a batch that never holds more than one request leaves N_0 = 0
    ticking = max(0.0, count + float(lambertw(-count * math.exp(-count)).real))
    empty = math.exp(-ticking)
    return Moments(
        var_batch_tokens=max(0.0, second.var_batch_tokens - empty * tokens**2),
        var_running=max(0.0, second.var_running - empty * count**2),
        cov_running_tokens=second.cov_running_tokens - empty * count * tokens,
        var_batch_time=max(0.0, second.var_batch_time - empty * extra_time**2),
        cov_running_time=second.cov_running_time - empty * running * extra_time,
    )
