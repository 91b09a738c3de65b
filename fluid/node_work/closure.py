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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid._capacity import Saturation
from fluid.node_work.batches import Batches
from fluid.node_work.configuration import FREE, configuration
from fluid.node_work.crowds import crowd_jumps
from fluid.node_work.request_work import (
    DECODE,
    LEFT_SQUARED,
    LEFT_SUM,
    PROBABILITY,
    SQUARED_TOKENS,
    TOKENS_LEFT,
    TOKENS_SUM,
    WORK,
    Jumps,
    RequestWork,
)
from serving.compilation import compiled

CLOSEST = 0.98
"""Load at which the law of those who execute is taken, where the load is higher: entries to a
saturated batch are as many as it can take."""


@dataclass(frozen=True, eq=False)
class WorkClosure:
    """The law of a node's batch given its work in system, at one arrival rate.

    Parameters
    ----------
    rate : [requests/time]
        Arrival rate.
    dispersion
        Variance of the number of arrivals in a long time over its mean; 1 for Poisson arrivals.
    batches
        What a batch takes and does.
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
    batches: Batches
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
        return self.batches.fastest(self.set_size)

    @property
    def saturation(self) -> Saturation:
        """The saturated node."""
        return self.batches.saturation


NOBODY = 1e-9
"""Share of a saturated batch below which nobody is taken to execute."""


class Line(NamedTuple):
    """A straight line that stands for the duration of a batch.

    Parameters
    ----------
    at_nothing, per_request, per_token
        [time], [time/request] and [time/token].
    """

    at_nothing: float
    per_request: float
    per_token: float


def closure_of(
    work: RequestWork, batches: Batches, line: Line, rate: float, dispersion: float
) -> WorkClosure:
    """Return the closure of a node at an arrival ``rate`` [requests/time].

    Parameters
    ----------
    work
        Moments of what requests need.
    batches
        What a batch takes and does.
    line
        Duration of a batch about the usual one at this rate.
    rate, dispersion
        As for :func:`work_closure`.
    """
    full = batches.saturation
    set_mean, set_sd, set_size = _saturated_set(work, batches, rate, dispersion)
    inside = min(rate, CLOSEST * full.throughput)
    d_0, d_n, d_1 = line
    stay, held = (float(work.requests[row].sum()) for row in (DECODE, TOKENS_SUM))
    q = max(inside * (d_n * stay + d_1 * held), 1e-9)
    size = held / stay  # tokens of a request, seen over its stay
    # with d_n = d_1 = 0 arrivals do not heed the batch: q -> 0 is the Poisson limit
    shape = 1.0 + inside * d_0 * stay / q
    own = (d_0 + (d_n + d_1 * size) * q) / (1 - q) + d_n
    level, given, reach = configuration(work.stages, q, shape, own, d_1, set_mean)
    demand, executing, spread, requests = given
    reach *= max(1.0, dispersion)
    if reach > FREE * set_mean:
        reach = np.inf
    waiting = (demand - executing) / work.fresh_tokens  # for the batch under way to end
    # where hardly anybody executes their number over their tokens is rounding, and the mean stands
    some = executing > NOBODY * full.batch_tokens
    per_token = np.full(level.size, 1.0 / size)
    per_token[some] = np.maximum((requests - waiting)[some], 0.0) / executing[some]
    per_token[0] = per_token[1]
    return WorkClosure(
        rate, dispersion, batches, work, set_mean, set_sd, set_size,
        batches.full(set_size), d_1 + d_n / size,
        reach, level, demand, executing, spread, per_token,
    )  # fmt: skip


def _saturated_set(
    work: RequestWork, batches: Batches, rate: float, dispersion: float
) -> tuple[float, float, float]:
    """Return mean and sd of the work of a saturated set, and its requests."""
    full = batches.saturation
    service = batches.fastest(full.batch_size)
    tilt = _lundberg(work.requests, rate, service, max(0.0, 0.5 * (dispersion - 1.0)))
    return _executing_set(work.requests, tilt, full.batch_tokens)


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
def _executing_set(requests, tilt, tokens):
    """Return mean and sd of the work of Poisson stages that hold ``tokens``, and their number."""
    c = r = rr = cr = cc = n = 0.0
    for b in range(requests.shape[1]):
        weight = np.exp(tilt * requests[WORK, b] / requests[PROBABILITY, b])
        c += weight * requests[TOKENS_SUM, b]
        r += weight * requests[LEFT_SUM, b]
        rr += weight * requests[LEFT_SQUARED, b]
        cr += weight * requests[TOKENS_LEFT, b]
        cc += weight * requests[SQUARED_TOKENS, b]
        n += weight * requests[DECODE, b]
    scale = tokens / c
    return scale * r, np.sqrt(scale * max(rr - cr * cr / cc, 0.0)), scale * n
