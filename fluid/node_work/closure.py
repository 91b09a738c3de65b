"""What a node does given the work in its system: the closure of the model of one node.

The state of one node is reduced to V, the token-iterations that the requests in its system still
need. Given V, the tokens X that these requests would like to execute follow from the law of
independent requests whose arrivals per iteration grow with the batch time (a negative binomial
number of independent stages, each weighted with the batch time it makes): ``E[X | V]`` and
``Var[X | V]`` by a Panjer recursion, and by its saddle point where requests are small. With C the
tokens of a saturated batch,

* the batch has ``min(X, C)`` tokens, so V falls at ``E[min(X, C) / tau]`` per time;
* an arrival waits if X > C; it then starts when V has come down to R, the work of a saturated
  executing set, ``(V - R) / (C / tau_C)`` later. R follows the set's composition under the tilt
  of arrivals that large V implies (Lundberg), given R < V.

Nothing is fitted. Model, section 6; the tests hold every part against simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fluid._capacity import Saturation, saturation
from fluid._operating_point import check_takes_time
from fluid.node_work.crowds import crowd_jumps
from fluid.node_work.request_work import (
    BY_TOKENS,
    COUNT,
    DECODE,
    EXECUTING,
    LEFT,
    LEFT_SQUARED,
    LEFT_SUM,
    PLAIN,
    PROBABILITY,
    SQUARED_TOKENS,
    TOKENS,
    TOKENS_LEFT,
    TOKENS_SQUARED,
    WORK,
    Jumps,
    RequestWork,
    request_work,
)
from serving import DecodeNode, RequestMix, answers
from serving.compilation import compiled

CLOSEST = 0.98
"""Load at which the law of those who execute is taken, where the load is higher: entries to a
saturated batch are as many as it can take."""

FIXED_POINT = 20
"""Iterations towards the tokens that the fluid limit executes."""

TILTS, RESOLVED, FINEST, SPAN = 32, 3.0, 352, 2.2
"""Saddle points; grid steps that a mean remaining work must span for the recursion; steps of the
recursion at most; and how many saturated sets' work it covers at most."""

BEYOND = 24
"""Levels from where the recursion ends to where the closure does."""

NEVER = 20.0
"""V exceeds its reach with a probability below exp(-NEVER)."""

FREE = 0.5
"""Work over that of a saturated set up to which requests hardly ever fill a batch."""

DEMAND, AT_WORK, SPREAD, REQUESTS = range(4)
"""Rows of what is expected given the work in system V.

``DEMAND`` [tokens] is E[X | V], ``AT_WORK`` [tokens] the part of it that is executing, ``SPREAD``
[tokens] the standard deviation of X given V, and ``REQUESTS`` [requests] E[N | V].
"""

ALL, BESIDES_ONE, BESIDES_TWO = range(3)
"""Stages that the recursion picks out of the law of V: none, one, two."""


@dataclass(frozen=True, eq=False)
class WorkClosure:
    """The law of a node's batch given its work in system, at one arrival rate.

    Parameters
    ----------
    rate : [requests/time]
        Arrival rate.
    dispersion
        Variance of the number of arrivals in a long time over its mean; 1 for Poisson arrivals.
    saturation
        The saturated node.
    work
        Moments of the mix.
    set_mean, set_sd : [token-iterations]
        Mean and standard deviation of R, the work of a saturated executing set.
    set_size : [requests]
        How many requests it has: fewer than usual where a few long ones made V large.
    set_time : [time]
        Duration of its batch.
    slope : [time/token]
        Change of the batch time with its tokens and the requests that they belong to.
    reach : [token-iterations]
        Work that hardly ever is exceeded in equilibrium, on a node so lightly loaded that it stays
        below :data:`FREE` saturated sets; otherwise infinite.
    level : shape (K,) [token-iterations]
        V.
    demand, executing, spread : shape (K,) [tokens]
        ``E[X | V]``, the part of it that is not waiting for a batch to end, and the standard
        deviation of X given V.
    per_token : shape (K,) [requests/token]
        Requests that execute, given V, over their tokens.
    """

    rate: float
    dispersion: float
    saturation: Saturation
    work: RequestWork
    set_mean: float
    set_sd: float
    set_size: float
    set_time: float
    slope: float
    reach: float
    level: NDArray[np.float64]
    demand: NDArray[np.float64]
    executing: NDArray[np.float64]
    spread: NDArray[np.float64]
    per_token: NDArray[np.float64]

    @property
    def crowd(self) -> float:
        """How many requests more than Poisson ones an arrival finds to have come just before it."""
        return 0.5 * (self.dispersion - 1.0)

    @property
    def variance(self) -> float:
        """Variance of the work that arrives, per arrival [token-iterations^2].

        That of N requests is ``E[N] Var w + Var N (E w)^2``.
        """
        return self.work.second + (self.dispersion - 1.0) * self.work.mean**2

    @cached_property
    def bursts(self) -> Jumps:
        """The work that arrives at a time, by single requests or by crowds of them."""
        return crowd_jumps(self.work.jumps, self.crowd) if self.crowd > 0 else self.work.jumps

    @property
    def fastest(self) -> float:
        """Rate at which a saturated set works [token-iterations/time]."""
        return _fastest(self.work, self.saturation, self.set_size, self.set_time)


def _linear_law(mix: RequestMix, instance: DecodeNode, rate: float) -> tuple[float, float, float]:
    """Return the batch time at nothing [time], the time per request and the time per token.

    The batch has ``E[D] / W`` requests per token. Exact for an affine law; otherwise the secant
    from half the tokens that the fluid limit executes at ``rate`` to half as many more, within
    what a batch can be, of which KV keeps its part.
    """
    law, per_token = instance.batch_time, mix.mean_decode / mix.work
    if law.is_affine:
        line = law.tangent(0.0, 0.0)
        slope = line.per_token + line.per_request * per_token
        token = min(slope, line.per_token)
        return line.at_nothing, (slope - token) / per_token, token
    most = saturation(mix, instance).batch_tokens

    def time(tokens: float) -> float:
        return float(law.duration(tokens, tokens * per_token))

    usual = most
    for _ in range(FIXED_POINT):
        usual = min(most, rate * mix.work * time(usual))
    high = min(most, max(1.5 * usual, 2 / per_token))
    low = min(0.5 * usual, 0.5 * high)
    slope = max(0.0, (time(high) - time(low)) / (high - low))
    fewer = float(law.duration(high, low * per_token))
    token = min(slope, (fewer - time(low)) / (high - low))
    return max(0.0, time(high) - slope * high), (slope - token) / per_token, token


@answers("decode_node")
def work_closure(
    mix: RequestMix, instance: DecodeNode, rate: float, dispersion: float = 1.0
) -> WorkClosure:
    """Return the closure at an arrival ``rate`` [requests/time].

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    rate
        At or above capacity, those who execute are as at the capacity.
    dispersion
        Variance of the number of arrivals in a long time over its mean.

    Raises
    ------
    SolveError
        If an empty batch takes no time.
    """
    check_takes_time(instance.batch_time, "node_work")
    full = saturation(mix, instance)
    work = request_work(mix, tokens_besides(instance, full))
    set_mean, set_sd, set_size, set_time = _saturated_set(work, instance, full, rate, dispersion)
    inside = min(rate, CLOSEST * full.throughput)
    d_0, d_n, d_1 = _linear_law(mix, instance, inside)
    q = max(inside * (d_n * mix.mean_decode + d_1 * mix.work), 1e-9)
    size = mix.work / mix.mean_decode  # tokens of a request, seen over its stay
    # with d_n = d_1 = 0 arrivals do not heed the batch: q -> 0 is the Poisson limit
    shape = 1.0 + inside * d_0 * mix.mean_decode / q
    own = (d_0 + (d_n + d_1 * size) * q) / (1 - q) + d_n
    level, given, reach = _configuration(work.stages, q, shape, own, d_1, set_mean)
    demand, executing, spread, requests = given
    reach *= max(1.0, dispersion)
    if reach > FREE * set_mean:
        reach = np.inf
    waiting = (demand - executing) / work.fresh_tokens  # for the batch under way to end
    per_token = (requests - waiting) / np.maximum(executing, 1e-300)
    per_token[0] = per_token[1]
    return WorkClosure(
        rate, dispersion, full, work, set_mean, set_sd, set_size, set_time, d_1 + d_n / size,
        reach, level, demand, executing, spread, per_token,
    )  # fmt: skip


def tokens_besides(instance: DecodeNode, full: Saturation) -> float:
    """Return g, the tokens that would lengthen a saturated batch as a request besides its own do.

    A batch of n requests that fill C tokens takes d_0 + d_1 C + e n: a request takes e of it, and
    each of the C tokens 1/C of the rest. With g added to its tokens, a saturated batch works
    C + g n at a rate that does not depend on whom it holds.
    """
    law, tokens, size = instance.batch_time, full.batch_tokens, full.batch_size
    more, fewer = (float(law.duration(tokens, share * size)) for share in (1.05, 0.95))
    each = (more - fewer) / (0.1 * size)
    # where nothing but requests takes time, tokens count for next to nothing
    extra = each * tokens / max(full.batch_time - each * size, 1e-6 * full.batch_time)
    return max(extra, -0.99) if abs(extra) > 1e-9 else 0.0


def _fastest(work: RequestWork, full: Saturation, size: float, time: float) -> float:
    return (full.batch_tokens + work.extra * size) / time


def _saturated_set(
    work: RequestWork, instance: DecodeNode, full: Saturation, rate: float, dispersion: float
) -> tuple[float, float, float, float]:
    """Return mean and sd of the work of a saturated set, its requests and its batch time."""
    service = _fastest(work, full, full.batch_size, full.batch_time)
    tilt = _lundberg(work.requests, rate, service, max(0.0, 0.5 * (dispersion - 1.0)))
    mean, sd, size = _executing_set(work.requests, work.extra, tilt, full.batch_tokens)
    return mean, sd, size, float(instance.batch_time.duration(full.batch_tokens, size))


@compiled
def _lundberg(requests, rate, service, crowd):
    """Return theta > 0 with rate e / (1 - crowd e) = theta service; 0 without one.

    Here e = E[exp(theta w)] - 1: arrivals come in crowds of a geometric number, by 1 + crowd on
    average; 0 is Poisson, which regular arrivals are taken for here. P(V > v) falls like
    exp(-theta v), and arrivals that brought V there are tilted by exp(theta w).
    """
    mean, most = 0.0, 0.0
    for b in range(requests.shape[1]):
        mean += requests[WORK, b]
        most = max(most, requests[WORK, b] / requests[PROBABILITY, b])
    if rate <= 0.0 or rate * mean >= service * (1 - 1e-9):
        return 0.0
    low, high = 0.0, 40.0 / most
    for _ in range(60):
        theta = 0.5 * (low + high)
        gained = 0.0
        for b in range(requests.shape[1]):
            share = requests[PROBABILITY, b]
            gained += share * np.expm1(theta * requests[WORK, b] / share)
        if crowd * gained < 1.0 and rate * gained < theta * service * (1.0 - crowd * gained):
            low = theta
        else:
            high = theta
    return low


@compiled
def _executing_set(requests, extra, tilt, tokens):
    """Return mean and sd of the work of Poisson stages that hold ``tokens``, and their number."""
    c = r = rr = cr = cc = n = 0.0
    for b in range(requests.shape[1]):
        weight = np.exp(tilt * requests[WORK, b] / requests[PROBABILITY, b])
        c += weight * (requests[WORK, b] - extra * requests[DECODE, b])
        r += weight * requests[LEFT_SUM, b]
        rr += weight * requests[LEFT_SQUARED, b]
        cr += weight * requests[TOKENS_LEFT, b]
        cc += weight * requests[SQUARED_TOKENS, b]
        n += weight * requests[DECODE, b]
    scale = tokens / c
    return scale * r, np.sqrt(scale * max(rr - cr * cr / cc, 0.0)), scale * n


@compiled
def _configuration(stages, q, shape, own, d_1, set_mean):
    """Return V on a grid, what is expected given V (DEMAND ... REQUESTS), and the reach of V."""
    n = stages.shape[2]
    law = np.empty((5, n))  # by rows as those of the stages: COUNT ... TOKENS_SQUARED
    total = 0.0
    for b in range(n):
        for row in range(5):
            law[row, b] = own * stages[PLAIN, row, b] + d_1 * stages[BY_TOKENS, row, b]
        total += law[COUNT, b]
    law /= total
    mean, square = 0.0, 0.0
    for b in range(n):
        mean += law[LEFT, b]
        square += law[LEFT, b] * law[LEFT, b] / law[COUNT, b]
    tilted, at_tilts, rarity = _saddle_points(law, q, shape)
    reach = np.inf
    for t in range(1, TILTS + 1):
        if rarity[t] >= NEVER:
            reach = tilted[t]
            break
    if reach > FREE * set_mean:
        reach = np.inf
    covered = min(reach, SPAN * set_mean)
    step = max(covered / FINEST, square / mean / 6.0)
    points = int(covered / step) + 2
    beyond = BEYOND if covered < SPAN * set_mean else 0
    level = np.empty(points + beyond)
    for k in range(points):
        level[k] = k * step
    for k in range(beyond):
        level[points + k] = level[points - 1] * (SPAN * set_mean / covered) ** ((k + 1.0) / beyond)
    given = np.zeros((4, points + beyond))
    for row in range(4):
        given[row] = np.interp(level, tilted, at_tilts[row])
    if square / mean >= RESOLVED * step:
        _panjer(law, q, shape, step, given[:, :points])
    return level, given, reach


@compiled
def _saddle_points(law, q, shape):
    """Return V at tilts, rising from 0, with what is expected given V and how rare more is.

    The former by the rows ``DEMAND ... REQUESTS``, the latter as minus the logarithm of Chernoff's
    bound.
    """
    n = law.shape[1]
    work = law[LEFT] / law[COUNT]
    low = 0.0  # q E[exp(theta R)] = 1: where V has no bound; Newton on the logarithm, from above
    theta = np.log(1.0 / q) / (np.sum(law[LEFT] * work) / np.sum(law[LEFT]))
    while True:
        f = np.sum(law[COUNT] * np.exp(theta * work))
        if q * f >= 1.0:
            break
        low = theta
        theta *= 1.5
    for _ in range(12):
        e = law[COUNT] * np.exp(theta * work)
        change = np.log(q * np.sum(e)) * np.sum(e) / np.sum(e * work)
        theta -= change
        if change < 1e-9 * theta:
            break
    low = theta * (1.0 - 1e-8)
    level, given, rarity = np.zeros(TILTS + 1), np.zeros((4, TILTS + 1)), np.zeros(TILTS + 1)
    for t in range(TILTS):
        theta = low * (1.0 - 3e-3 * 1e5 ** (1.0 - t / (TILTS - 1.0)))
        f = r = c = x = rr = rc = cc = 0.0
        for b in range(n):
            e = np.exp(theta * work[b])
            f += e * law[COUNT, b]
            r += e * law[LEFT, b]
            c += e * law[TOKENS, b]
            x += e * law[EXECUTING, b]
            rr += e * law[LEFT, b] * work[b]
            rc += e * law[TOKENS, b] * work[b]
            cc += e * law[TOKENS_SQUARED, b]
        u = q / (1.0 - q * f)
        vv, vx, xx = rr + u * r * r, rc + u * r * c, cc + u * c * c
        level[t + 1] = shape * u * r
        if theta > 0.0:
            rarity[t + 1] = theta * level[t + 1] - shape * np.log((1.0 - q) / (1.0 - q * f))
        given[DEMAND, t + 1] = shape * u * c
        given[AT_WORK, t + 1] = shape * u * x
        given[REQUESTS, t + 1] = shape * u * f
        if vv > 0.0:
            given[SPREAD, t + 1] = np.sqrt(shape * u * max(xx - vx * vx / vv, 0.0))
    return level, given, rarity


@compiled
def _panjer(law, q, shape, step, given):
    """Overwrite what is expected given V, by rows DEMAND ... REQUESTS, by the law on a grid.

    The generating function of V is ``((1 - q) / (1 - q phi))^shape``; a stage picked out of it
    leaves the same with ``shape + 1``, two stages ``shape + 2``: rows ALL, BESIDES_ONE, BESIDES_TWO
    of ``f``. The law of a stage on the grid is ``nu``, by the rows of ``law``.
    """
    points = given.shape[1]
    support = 1
    nu = np.zeros((5, points + 2))
    for b in range(law.shape[1]):
        at = law[LEFT, b] / law[COUNT, b] / step
        i = int(at)
        if i + 1 < points + 2:
            support = max(support, i + 2)
            for row in (COUNT, TOKENS, EXECUTING, TOKENS_SQUARED):
                nu[row, i] += (1.0 - (at - i)) * law[row, b]
                nu[row, i + 1] += (at - i) * law[row, b]
    support = min(support, points)
    f = np.zeros((3, points))
    f[:, 0] = 1.0
    pairs = np.zeros(points)  # nu[TOKENS] convolved with f[BESIDES_TWO]
    g = 1.0 / (1.0 - q * nu[COUNT, 0])
    for k in range(points):
        last = min(k, support - 1)
        if k > 0:
            for picked in (ALL, BESIDES_ONE, BESIDES_TWO):
                a, b = q, (shape + picked - 1.0) * q
                total = 0.0
                for j in range(1, last + 1):
                    total += (a + b * j / k) * nu[COUNT, j] * f[picked, k - j]
                f[picked, k] = total * g
        n = c = x = cc = pair = two = 0.0
        for j in range(last + 1):
            n += nu[COUNT, j] * f[BESIDES_ONE, k - j]
            c += nu[TOKENS, j] * f[BESIDES_ONE, k - j]
            x += nu[EXECUTING, j] * f[BESIDES_ONE, k - j]
            cc += nu[TOKENS_SQUARED, j] * f[BESIDES_ONE, k - j]
            pair += nu[TOKENS, j] * f[BESIDES_TWO, k - j]
        pairs[k] = pair
        for j in range(last + 1):
            two += nu[TOKENS, j] * pairs[k - j]
        if f[ALL, k] > 0.0:
            scale = shape * q * g / f[ALL, k]
            given[DEMAND, k] = scale * c
            given[AT_WORK, k] = scale * x
            given[REQUESTS, k] = scale * n
            square = scale * (cc + (shape + 1.0) * q * g * two)
            given[SPREAD, k] = np.sqrt(max(square - given[DEMAND, k] ** 2, 0.0))
        if f[BESIDES_TWO, k] > 1e200:
            f *= 1e-200
            pairs *= 1e-200
