"""Where a healthy node runs: the batch time that its own arrivals bring about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluid._capacity import saturation
from fluid._statistical_line import ALIKE, Spread
from serving import BatchTimeLaw, DecodeNode, RequestMix, SolveError, Tangent, answers

CYCLES = 1024
"""Cycle times, evenly spaced by their logarithm, among which the least fixed point is looked for.

Two fixed points between neighbours, some 2 % apart, are passed over: chance passes over them too.
"""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Means over iterations of a node that neither memory nor the batch budget binds.

    Parameters
    ----------
    idle : [time]
        Mean idle time i per iteration.
    tau : [time]
        Mean batch time.
    line
        The affine law that stands for the batch-time law here. Its value here is ``tau``.
    rho
        Share of the batch time that grows with the arrivals: ``lambda (per_token W + per_request
        E[D])`` of the line.
    """

    idle: float
    tau: float
    line: Tangent
    rho: float

    @property
    def cycle(self) -> float:
        """Mean time from the start of a batch to the start of the next one [time]."""
        return self.tau + self.idle


def check_takes_time(law: BatchTimeLaw, method: str) -> None:
    """Refuse a law by which a batch of nobody takes no time: the clock of batches would stand.

    Raises
    ------
    SolveError
        Naming ``method``.
    """
    if not float(law.duration(0.0, 0.0)) > 0:
        reason = "by this law an empty batch takes no time, and the fluid model divides time by it"
        raise SolveError(method, "stalled", f"{reason}; give d_0 > 0")


def operating_point(
    mix: RequestMix,
    law: BatchTimeLaw,
    arrival_rate: float,
    most_tokens: float,
    *,
    spread: Spread = ALIKE,
    idles: bool = True,
) -> OperatingPoint:
    """Return the least fixed point of the batch time tau and the idle time i.

    It is ``tau = duration(lambda (tau + i) W, lambda (tau + i) E[D])``. A law that bends may have
    several. The least one is where a node comes to that starts empty.

    Parameters
    ----------
    mix, law
        Lengths, and the batch-time law.
    arrival_rate : [requests/time]
        lambda > 0.
    most_tokens : [tokens]
        Tokens of a saturated batch.
    spread
        How the requests of a batch vary; the duration is the mean over them. By default they do
        not vary, and the line is the tangent.
    idles
        Whether the node is idle while it has no request. Without it ``i = 0``.

    Raises
    ------
    SolveError
        If there is none: the batch grows without end.
    """
    if law.is_affine:
        return _of_an_affine_law(mix, law.tangent(0.0, 0.0), arrival_rate, idles=idles)
    work, decode = arrival_rate * mix.work, arrival_rate * mix.mean_decode

    def lacks(cycle: Any) -> Any:
        """Return how much idle share a cycle lacks: above 0 up to the least fixed point."""
        tau = spread.duration(law, cycle * work, cycle * decode)
        idle = 1.0 - tau / cycle
        if not idles:
            return -idle
        found = np.exp(-tau * (decode + 0.5 * arrival_rate * (1.0 - np.clip(idle, 0.0, 1.0))))
        return np.where(idle > 0, found - idle, 1.0)

    cycles = np.geomspace(1e-3 / decode, 4 * most_tokens / work, CYCLES)
    beyond = np.flatnonzero(lacks(cycles) <= 0)
    if beyond.size == 0 or beyond[0] == 0:
        raise SolveError("equilibrium", "overload", "no batch time keeps up with the arrivals")
    from scipy.optimize import brentq

    bracket = cycles[beyond[0] - 1 : beyond[0] + 1]
    cycle: Any = brentq(lambda x: float(lacks(x)), *bracket, xtol=1e-14 * bracket[0])
    line = spread.line(law, cycle * work, cycle * decode)
    tau = float(line.duration(cycle * work, cycle * decode))
    idle = max(0.0, cycle - tau) if idles else 0.0
    return OperatingPoint(idle, tau, line, arrival_rate * added_time(mix, line))


@answers("decode_node")
def healthy_batch_time(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> float:
    """Return the batch time [time] of a large node that is never idle; infinite under overload.

    Parameters
    ----------
    mix, instance
        Lengths, and the node.
    arrival_rate : [requests/time]
        lambda > 0.

    Raises
    ------
    SolveError
        If an empty batch takes no time.
    """
    check_takes_time(instance.batch_time, "batch_time")
    full = saturation(mix, instance).batch_tokens
    try:
        return operating_point(mix, instance.batch_time, arrival_rate, full, idles=False).tau
    except SolveError:
        return math.inf


def added_time(mix: RequestMix, line: Tangent) -> float:
    """Return the time [time] that one request adds to all batches of its stay together."""
    return line.per_token * mix.work + line.per_request * mix.mean_decode


def _of_an_affine_law(
    mix: RequestMix, line: Tangent, arrival_rate: float, *, idles: bool
) -> OperatingPoint:
    """Return the point of an affine law: ``tau = (d_0 + rho i) / (1 - rho)``."""
    rho = arrival_rate * added_time(mix, line)
    if rho >= 1:
        raise SolveError("equilibrium", "overload", f"rho is {rho:.4f}, the backlog grows")
    idle = 0.0
    if idles:
        idle = _mean_idle(line.at_nothing, rho, arrival_rate, mix.mean_decode)
    return OperatingPoint(idle, (line.at_nothing + rho * idle) / (1 - rho), line, rho)


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
