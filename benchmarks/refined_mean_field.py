"""Research: corrections of order one to the fluid limit of a decode node in a steady state.

``refined_mean_field_accuracy.py`` holds them against known answers and the engine.

A refined mean field adds to the fluid's fixed point x the constant V by which the mean differs from
it: with J and H the derivatives of the drift and W the covariance of the linear noise,
``J W + W J' + Q = 0`` and ``J V + H : W / 2 = 0`` (Gast, Van Houdt, 2017). Three designs:

interior
    On the clock of batches the drift of a node that never fills is linear: V is 0 there (Gast,
    Latella, Massink, 2018), and in time V is what the change of clock adds, ``Cov(x, tau) / tau``.
    Exact for a node that is never empty, and in FluidServe already: :func:`fluid.equilibrium`.
smoothed
    The kink at the constraint is averaged over a normal law: the work in system and its variance
    such that the drift and the balance of the variance vanish on average (Ko, Gautam, 2013).
boundary
    The law of the work in system is that of a diffusion whose drift bends where the node is
    full (Halfin, Whitt, 1981); all else follows it as the interior's covariances say.

A fourth one, *grafted*, takes the law of the work in system from :func:`ode.stationary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from scipy.linalg import solve_continuous_lyapunov
from scipy.optimize import brentq, root

from fluid import equilibrium, saturation
from fluid._moments import _circle_mean, _points, _slowest
from fluid._operating_point import operating_point
from ode import stationary
from serving import DecodeNode, Distribution, RequestMix

Array = NDArray[np.float64]

# --- The published refinement, for any population of which a few jumps are known ------------------


@dataclass(frozen=True, eq=False)
class Refined:
    """The fixed point of a population's drift, the covariance about it and the correction.

    Parameters
    ----------
    point, correction : shape (K,)
        x and V: the mean is ``x + V`` up to the next order.
    covariance : shape (K, K)
        W, of the linear noise.
    """

    point: Array
    covariance: Array
    correction: Array


def refined(
    state: Sequence[sp.Symbol], jumps: Sequence[tuple[Sequence[int], Any]], start: Sequence[float]
) -> Refined:
    """Return the refined mean field of a population.

    Parameters
    ----------
    state : length K
        Numbers of each kind.
    jumps
        Change of the state, length K each, and its rate as an expression of the state.
    start : length K
        From where the fixed point is looked for.
    """
    change = np.array([each for each, _ in jumps], float)  # (T, K)
    rates = sp.Matrix([rate for _, rate in jumps])
    drift = sp.Matrix(change.T) * rates
    slope = drift.jacobian(list(state))
    bend = [sp.hessian(each, list(state)) for each in drift]
    f, j, h, b = (sp.lambdify(list(state), each, "numpy") for each in (drift, slope, bend, rates))
    point = root(lambda x: np.ravel(f(*x)), np.asarray(start, float), tol=1e-13).x
    jacobian = np.asarray(j(*point), float)
    noise = change.T @ (np.ravel(b(*point))[:, None] * change)
    covariance = solve_continuous_lyapunov(jacobian, -noise)
    curvature = np.einsum("ijk,jk->i", np.asarray(h(*point), float), covariance)
    return Refined(point, covariance, np.linalg.solve(jacobian, -0.5 * curvature))


# --- The interior of a decode node: second moments of tokens, requests and work -------------------

TOKENS, REQUESTS, WORK = range(3)
MOST_CLASSES = 400
"""Classes of a mix that are looked at one by one; of more, those at even ranks."""


@dataclass(frozen=True, eq=False)
class Interior:
    """A node that nothing binds, on the clock of its batches, without a break while it is empty.

    Parameters
    ----------
    tau : [time]
        Duration of a batch.
    mean : shape (3,)
        Tokens of a batch, running requests, work in system [token-iterations].
    covariance : shape (3, 3)
        Of the same.
    cost : shape (3,)
        What each adds to a batch [time/token, time/request, 0].
    lagged : [time^2]
        Covariance of the durations of two batches that follow each other.
    memory : [iterations]
        Batches in which a disturbance falls by e, at the slowest.
    """

    tau: float
    mean: Array
    covariance: Array
    cost: Array
    lagged: float
    memory: float

    @property
    def with_time(self) -> Array:
        """Covariance of each of the three with the duration of a batch, shape (3,)."""
        return self.covariance @ self.cost

    @property
    def var_time(self) -> float:
        """Variance of the duration of a batch [time^2]."""
        return float(self.cost @ self.with_time)


def interior(mix: RequestMix, instance: DecodeNode, rate: float) -> Interior:
    """Return the interior at an arrival ``rate`` [requests/time]; the batch-time law is affine.

    A request is a shock that its own arrivals-to-be repeat, see :mod:`fluid._moments`; this adds
    the work that is left to requests, and two batches that follow each other.
    """
    point = operating_point(mix, instance.batch_time, rate, math.inf, idles=False)
    cost = np.array([point.line.per_token, point.line.per_request, 0.0])
    order = np.lexsort((mix.prefill, mix.decode))
    share, prefill, decode = mix.probability[order], mix.prefill[order], mix.decode[order]
    if len(mix) > MOST_CLASSES:
        ranks = (np.arange(MOST_CLASSES) + 0.5) / MOST_CLASSES
        at = np.searchsorted(np.cumsum(share), ranks)
        share, prefill, decode = np.full(at.size, 1 / at.size), prefill[at], decode[at]
    alive = _mean_life(share, prefill, decode)
    w = cost @ alive
    slowest = _slowest(w, rate)
    size = _points(w.size, slowest)
    single = np.zeros((3, 3, size // 2 + 1), complex)
    for chance, p, d in zip(share, prefill, decode, strict=True):
        seen = np.fft.rfft(_life(float(p), int(d)), size)
        single += chance * np.einsum("if,jf->ijf", seen, seen.conj())
    unit = np.exp(-2j * np.pi / size * np.arange(size // 2 + 1))
    mean = np.fft.rfft(alive, size)
    delayed = rate * unit / (1 - rate * unit * (cost @ mean))
    total = np.eye(3)[..., None] + np.einsum("if,j->ijf", delayed * mean, cost)
    spectrum = np.einsum("ikf,klf,jlf->ijf", total, single, total.conj())
    of_time = np.einsum("i,ijf,j->f", cost, spectrum, cost)
    entering = rate * point.tau
    lagged = _circle_mean(of_time * np.real(unit), size, slowest)
    covariance = _circle_mean(spectrum, size, slowest)
    return Interior(
        point.tau, entering * alive.sum(axis=1), entering * covariance, cost,
        entering * float(lagged), 1 / slowest,
    )  # fmt: skip


def _life(prefill: float, decode: int) -> Array:
    """Return tokens, requests and work left of a request by stage, shape (3, D)."""
    tokens = prefill + 1 + np.arange(decode)
    return np.array([tokens, np.ones(decode), np.cumsum(tokens[::-1])[::-1]], float)


def _mean_life(share: Array, prefill: NDArray[Any], decode: NDArray[Any]) -> Array:
    """Return the mean over requests of :func:`_life`, 0 after their last stage, shape (3, D)."""
    alive = np.zeros((3, int(decode.max())))
    for chance, p, d in zip(share, prefill, decode, strict=True):
        alive[:, : int(d)] += chance * _life(float(p), int(d))
    return alive


# --- One number whose drift bends: smoothed over a normal law, or as a diffusion ------------------

NORMAL = np.linspace(-7.0, 7.0, 1401)
"""Standard normal variable, and the law of it."""
DENSITY = np.exp(-0.5 * NORMAL**2) / np.exp(-0.5 * NORMAL**2).sum()

Law = tuple[Array, Array]
"""Values, and their probabilities."""


def smoothed(
    service: Callable[[Array], Array], coming: float, noise: float, start: tuple[float, float]
) -> Law:
    """Return the normal law for which the drift and the balance of the variance vanish on average.

    Parameters
    ----------
    service
        Rate at which the number falls, never falling with it.
    coming, noise
        Rate at which it rises, and the variance that it gains per time.
    start
        Mean and standard deviation to begin with.

    Notes
    -----
    ``E[service] = coming`` and ``2 Cov(number, service) = noise``, both under the normal law.
    """

    def centre(spread: float) -> float:
        def lacks(at: float) -> float:
            return float(DENSITY @ service(at + spread * NORMAL)) - coming

        low = high = start[0]
        while lacks(low) > 0:
            low -= spread
        while lacks(high) < 0:
            high += spread
        found: Any = brentq(lacks, low, high, xtol=1e-10 * spread)
        return float(found)

    def gains(log_spread: float) -> float:
        spread = math.exp(log_spread)
        falls = service(centre(spread) + spread * NORMAL)
        return 2 * spread * float((DENSITY * NORMAL) @ falls) - noise

    low = high = math.log(start[1])
    while gains(low) > 0:
        low -= 0.5
    while gains(high) < 0:
        high += 0.5
    found: Any = brentq(gains, low, high, xtol=1e-8)
    spread = math.exp(found)
    return centre(spread) + spread * NORMAL, DENSITY


def diffusion(
    service: Callable[[Array], Array], coming: float, noise: float, highest: float
) -> Law:
    """Return the law of a diffusion with the drift ``coming - service``, reflected at 0.

    Parameters are as for :func:`smoothed`; values go up to ``highest``.
    """
    value = np.linspace(0.0, highest, 6001)
    drift = 2 * (coming - service(value)) / noise
    steps = 0.5 * np.diff(value) * (drift[1:] + drift[:-1])
    log = np.concatenate([[0.0], np.cumsum(steps)])
    law = np.exp(log - log.max())
    return value, law / law.sum()


# --- The designs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Means:
    """What is asked of a node: mean time to the first token [time], and mean in system."""

    ttft: float
    in_system: float


def fluid_limit(mix: RequestMix, instance: DecodeNode, rate: float) -> Means:
    """Return the fluid's means: half a batch until the next one, and that one."""
    tau = operating_point(mix, instance.batch_time, rate, math.inf, idles=False).tau
    return Means(1.5 * tau, rate * (mix.mean_decode + 0.5) * tau)


def own_time(mix: RequestMix, inside: Interior) -> float:
    """Return what a request adds to its own first batch [time]."""
    return float(inside.cost[TOKENS] * (mix.probability @ mix.prefill + 1) + inside.cost[REQUESTS])


def refined_interior(mix: RequestMix, instance: DecodeNode, rate: float) -> Means:
    """Return the means of a node that nothing binds, with the correction of order one."""
    inside, state = interior(mix, instance, rate), equilibrium(mix, instance, rate)
    first = inside.tau + inside.lagged / inside.tau + own_time(mix, inside)
    return Means(state.wait + first, rate * (state.wait + state.decode_time))


def refined_bound(
    mix: RequestMix, instance: DecodeNode, rate: float, *, smooth: bool = False
) -> Means:
    """Return the means of a node that may fill: as a diffusion, or smoothed over a normal law.

    Given the work in system, tokens that want to execute are normal, as in the interior.
    """
    inside, state = interior(mix, instance, rate), equilibrium(mix, instance, rate)
    full = saturation(mix, instance).batch_tokens
    work, second = _work_moments(mix)
    var_work = inside.covariance[WORK, WORK]
    tokens_by_work = inside.covariance[TOKENS, WORK] / var_work
    unexplained = inside.covariance[TOKENS, TOKENS] - tokens_by_work**2 * var_work
    slope = float(inside.cost[TOKENS] + inside.cost[REQUESTS] * mix.mean_decode / mix.work)
    d_0 = inside.tau - slope * inside.mean[TOKENS]
    beside = math.sqrt(max(unexplained, 0.0)) * NORMAL[::20]
    chance = DENSITY[::20] / DENSITY[::20].sum()
    middle = inside.mean[WORK] + 0.5 * rate * inside.tau * work  # with those who wait for a batch

    def wanted(level: Array) -> Array:
        usual = inside.mean[TOKENS] + tokens_by_work * (level - middle)
        return usual[:, None] + beside

    def duration(tokens: Array) -> Array:
        return d_0 + slope * np.clip(tokens, 0.0, full)

    def service(level: Array) -> Array:
        tokens = wanted(level)
        return (np.clip(tokens, 0.0, full) / duration(tokens)) @ chance

    fastest = full / (d_0 + slope * full)
    coming, noise = rate * work, rate * second
    if smooth:
        value, law = smoothed(service, coming, noise, (middle, math.sqrt(var_work)))
    else:
        excess = noise / (2 * (fastest - coming))
        at_full = max(middle + (full - inside.mean[TOKENS]) / tokens_by_work, middle)
        far = middle + 12 * math.sqrt(var_work) + 30 * noise / coming * d_0 / inside.tau
        value, law = diffusion(service, coming, noise, min(at_full + 30 * excess, far * 4))
    tokens = wanted(value)
    batch = float(law @ (duration(tokens) @ chance))
    waiting = float(law @ (np.maximum(tokens - full, 0.0) @ chance))
    room = waiting / (tokens_by_work * fastest)
    idle = state.idle / (state.idle + state.tau)
    boundary = 0.5 * (batch - idle * d_0)
    free = float(law @ ((tokens < full) @ chance))
    first = batch + free * own_time(mix, inside) - (inside.var_time - inside.lagged) / inside.tau
    more = inside.with_time[REQUESTS] / inside.var_time * (batch - inside.tau)
    running = inside.mean[REQUESTS] + more
    return Means(room + boundary + first, rate * (room + boundary) + running)


def _work_moments(mix: RequestMix) -> tuple[float, float]:
    """Return mean and mean square of the work of a request [token-iterations]."""
    work = mix.prefill * mix.decode + 0.5 * mix.decode * (mix.decode + 1)
    return float(mix.probability @ work), float(mix.probability @ work**2)


def grafted(mix: RequestMix, instance: DecodeNode, rate: float) -> Means:
    """Return the means of the present law of work, with two things that the interior says.

    In equilibrium as many tokens leave a batch as come to it: the first batch of a request is like
    the one before it, but for its own. And those who run vary with the batch time as there.
    """
    inside, found = interior(mix, instance, rate), stationary(mix, instance, rate)
    levels = found._node.levels
    even = replace(levels, demand=levels.demand - levels.pending, pending=0 * levels.pending)
    node = replace(found._node, levels=even)
    samples = found._model.arrivals(node, found.probability, found._count).samples
    ttft = Distribution.of(*samples.of("ttft")).mean
    idle = float(found.probability[0])
    d_0 = inside.tau - float(inside.cost @ inside.mean)
    batch = (1 - idle) * found.batch_time + idle * d_0
    first = batch - (inside.var_time - inside.lagged) / inside.tau
    first += (1 - found.waits) * own_time(mix, inside)
    more = inside.with_time[REQUESTS] / inside.var_time * (batch - inside.tau)
    return Means(ttft, rate * (ttft - first) + inside.mean[REQUESTS] + more)


def present(mix: RequestMix, instance: DecodeNode, rate: float) -> Means:
    """Return the means of FluidServe's own method of one node."""
    found = stationary(mix, instance, rate).latencies
    return Means(found["ttft"].mean, rate * found["e2el"].mean)


DESIGNS: dict[str, Callable[[RequestMix, DecodeNode, float], Means]] = {
    "fluid": fluid_limit,
    "interior": refined_interior,
    "smoothed": partial(refined_bound, smooth=True),
    "boundary": refined_bound,
    "grafted": grafted,
    "stationary": present,
}
