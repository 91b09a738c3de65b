"""What the requests of a mix still have to do, stage by stage, gathered into bins.

A request is in one batch at each stage k. It holds c of what limits the node there, in general
tokens, and it has u to do, both of them straight lines in k; ``R = sum of u over its remaining
stages`` is what it has to go. Everything that the model of one node needs of a mix are moments of
(R, c) over stages, and of ``w = R(k = 0)`` over requests, with what a request brings besides.

A request of a decode node holds ``c = p + k + 1`` batch tokens and has ``u = c + g`` to do, g being
what it takes of a batch besides its tokens, in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fluid.node_work.lengths import Lengths, Needs, gathered, lengths_of
from serving import RequestMix
from serving.compilation import compiled

STAGE_BINS, REQUEST_BINS, JUMP_BINS = 224, 80, 40
"""Bins by remaining work R, by the work w of a request, and by w again where few must do."""

MOST_STAGES = 48
"""Stages at which one request is looked at; the stages between them are alike."""

PLAIN, BY_TOKENS = range(2)
"""Axis 0 of ``RequestWork.stages``: each sum as it is, and the same sum with every stage weighted
with its batch tokens c."""

COUNT, LEFT, TOKENS, EXECUTING, TOKENS_SQUARED = range(5)
"""Axis 1 of ``RequestWork.stages``, sums over the stages of a bin.

``COUNT`` [1] counts the stages, ``LEFT`` [token-iterations] sums R, ``TOKENS`` [tokens] sums c,
``EXECUTING`` [tokens] sums c over the stages that execute, ``TOKENS_SQUARED`` [tokens^2] sums c^2.
"""

(
    PROBABILITY,
    WORK,
    LEFT_SUM,
    LEFT_SQUARED,
    TOKENS_LEFT,
    SQUARED_TOKENS,
    FRESH,
    DECODE,
    TOKENS_SUM,
) = range(9)
"""Axis 0 of ``RequestWork.requests``, sums over the arrivals of a bin.

``PROBABILITY`` [1] is their share of the arrivals, ``WORK`` [token-iterations] sums w. Five rows
sum over all stages of the requests: ``LEFT_SUM`` [token-iterations] sums R, ``LEFT_SQUARED``
[token-iterations^2] sums R^2, ``TOKENS_LEFT`` [tokens * token-iterations] sums c R,
``SQUARED_TOKENS`` [tokens^2] sums c^2 and ``TOKENS_SUM`` [tokens] sums c. ``FRESH`` [tokens] sums
the c of the first stage, and ``DECODE`` [iterations] sums the stages.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Jumps:
    """The work that arrivals bring, in few bins.

    Parameters
    ----------
    work : shape (J,) [token-iterations]
        Mean w of a bin.
    probability : shape (J,)
        Share of the arrivals.
    """

    work: NDArray[np.float64]
    probability: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RequestWork:
    """Moments of a mix's work, per arrival.

    Parameters
    ----------
    stages : shape (2, 5, S)
        Sums over stages by bin of R, at ``[PLAIN or BY_TOKENS, COUNT ... TOKENS_SQUARED]``. A bin
        with no stage is left out. The arrivals that wait for the batch under way to end count as
        half a stage of R = w, with the c of the first stage, that does not execute: half a batch
        is how long they do.
    requests : shape (9, B)
        Sums over requests by bin of w, at ``[PROBABILITY ... TOKENS_SUM]``.
    lengths
        The requests by decode length.
    mean, second : [token-iterations, (token-iterations)^2]
        E[w] and E[w^2], of the binned law.
    jumps
        The binned law of w in fewer bins.
    """

    stages: NDArray[np.float64]
    requests: NDArray[np.float64]
    lengths: Lengths
    mean: float
    second: float
    jumps: Jumps

    @property
    def fresh_tokens(self) -> float:
        """E[size + growth] [tokens], what a request holds in its first stage."""
        return float(self.requests[FRESH].sum())


@lru_cache(maxsize=64)
def request_work(mix: RequestMix, extra: float = 0.0, oldest: float = math.inf) -> RequestWork:
    """Return the moments of a mix's work; a mix is immutable and known by identity.

    Parameters
    ----------
    mix
        Who arrives.
    extra : [tokens]
        g; more than -1.
    oldest : [iterations]
        Batches since the node began: no request is further than that.
    """
    if oldest < math.inf:
        return younger(mix, _needs(mix, extra), request_work(mix, extra), oldest)
    needs = _needs(mix, extra)
    return work_of(needs, lengths_of(mix, needs))


def _needs(mix: RequestMix, extra: float) -> Needs:
    p, d = mix.prefill, mix.decode.astype(float)
    return Needs(mix.probability, d, p, 1.0, p + extra, 1.0, np.zeros(d.size), 0.5)


def work_of(needs: Needs, lengths: Lengths) -> RequestWork:
    """Return the moments of what requests need.

    Parameters
    ----------
    needs
        What requests take of their batches.
    lengths
        The same requests by decode length.
    """
    stages, requests = _moments(needs, math.inf)
    brought, share = requests[WORK], requests[PROBABILITY]
    mean, second = float(brought.sum()), float(np.sum(brought**2 / share))
    return RequestWork(stages, requests, lengths, mean, second, _jumps(requests))


def younger(mix: RequestMix, needs: Needs, all_ages: RequestWork, oldest: float) -> RequestWork:
    """Return the moments while no request has been in more than so many batches.

    Parameters
    ----------
    mix, needs
        Who arrives, and what they take of their batches.
    all_ages
        The moments without that limit: the work that requests bring stays.
    oldest : [iterations]
        Batches since the node began with nobody in it.
    """
    few = gathered(mix, needs)
    stages, requests = _moments(few, oldest)
    if few is not needs:  # what few requests stand for is right once all ages are there
        with_all, of_all = _moments(few, math.inf)
        stages *= (all_ages.stages.sum(axis=2) / with_all.sum(axis=2))[:, :, None]
        requests *= (all_ages.requests.sum(axis=1) / of_all.sum(axis=1))[:, None]
    return replace(all_ages, stages=stages, requests=requests)


def _moments(needs: Needs, oldest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums over stages and over requests, see :class:`RequestWork`."""
    d = needs.stages
    total = needs.each * d + needs.slope * d * (d + 1) / 2 + needs.brought
    most = float(total.max())
    return _stage_moments(needs, most, oldest), _request_moments(needs, total, oldest)


def _stage_moments(needs: Needs, most: float, oldest: float) -> NDArray[np.float64]:
    sums = np.zeros((2, 5, STAGE_BINS))
    _add_stages(
        needs.size, needs.growth, needs.each, needs.slope, needs.stages, needs.brought,
        needs.share, needs.pending, oldest, np.log(max(most, 2.0)) + 1e-9, sums,
    )  # fmt: skip
    return np.ascontiguousarray(sums[:, :, sums[PLAIN, COUNT] > 0])


@compiled
def _add_stages(size, growth, each, slope, stages, brought, share, pending, oldest, top, sums):
    bins = sums.shape[2]
    edges = np.exp(np.arange(bins) * (top / bins))
    executing, waiting = np.zeros((bins, 6)), np.zeros((bins, 6))  # a stage writes to one place
    for atom in range(size.size):
        size_, each_, d_, a = size[atom], each[atom], stages[atom], share[atom]
        reached = min(d_, oldest)
        groups = int(max(min(reached, MOST_STAGES), 1.0))
        total = each_ * d_ + slope * (d_ * (d_ + 1.0) / 2.0)
        whole = total + brought[atom]
        b = min(int(np.log(max(whole, 1.0)) / top * bins), bins - 1)
        _add_stage(waiting[b], pending * a, whole, size_ + growth)
        first = 0.0
        for g in range(groups):
            last = (g + 1) * reached / groups
            if reached == d_:
                last = np.floor(last)
            k = 0.5 * (first + last)
            done = each_ * k + slope * (k * (k + 1.0) / 2.0)  # half of the stage in progress is
            left = total - done - 0.125 * slope
            while b > 0 and left < edges[b]:
                b -= 1
            _add_stage(executing[b], a * (last - first), left, size_ + growth * (k + 0.5))
            first = last
    for weighting, row, column in (
        (PLAIN, COUNT, 0),
        (PLAIN, LEFT, 1),
        (PLAIN, TOKENS, 2),
        (PLAIN, TOKENS_SQUARED, 4),
        (BY_TOKENS, COUNT, 2),
        (BY_TOKENS, LEFT, 3),
        (BY_TOKENS, TOKENS, 4),
        (BY_TOKENS, TOKENS_SQUARED, 5),
    ):
        sums[weighting, row] = executing[:, column] + waiting[:, column]
    sums[PLAIN, EXECUTING] = executing[:, 2]
    sums[BY_TOKENS, EXECUTING] = executing[:, 4]


@compiled
def _add_stage(sums, weight, left, c):
    """Add a stage to the sums of 1, R, c, R c, c^2 and c^3."""
    tokens = weight * c
    squares = tokens * c
    sums[0] += weight
    sums[1] += weight * left
    sums[2] += tokens
    sums[3] += tokens * left
    sums[4] += squares
    sums[5] += squares * c


def _request_moments(
    needs: Needs, total: NDArray[np.float64], oldest: float
) -> NDArray[np.float64]:
    """Return sums over stages, in closed form: they are polynomials in the stages reached."""
    share, d = needs.share, needs.stages
    m = np.minimum(d, oldest)
    order = np.argsort(total, kind="stable")
    mass = np.cumsum((share * total**2)[order])
    which = np.minimum((mass / mass[-1] * REQUEST_BINS).astype(int), REQUEST_BINS - 1)
    bins = np.empty(total.size, int)
    bins[order] = which
    # c at stage k is x + b (k + 1/2); R at its middle the integral of y + s k from k to D, which is
    # a - y k - s k^2 / 2
    x, b = needs.size + 0.5 * needs.growth, needs.growth
    y, s = needs.each + 0.5 * needs.slope, needs.slope
    a = y * d + s * d**2 / 2
    left = a * m - y * m**2 / 2 - s * m**3 / 6
    rows = {
        PROBABILITY: share,
        WORK: share * total,
        LEFT_SUM: share * left,
        LEFT_SQUARED: share
        * (
            a**2 * m
            - a * y * m**2
            + (y**2 - a * s) * m**3 / 3
            + y * s * m**4 / 4
            + s**2 * m**5 / 20
        ),
        TOKENS_LEFT: share * (x * left + b * (a * m**2 / 2 - y * m**3 / 3 - s * m**4 / 8)),
        SQUARED_TOKENS: share * (x**2 * m + x * b * m**2 + b**2 * m**3 / 3),
        FRESH: share * (needs.size + needs.growth),
        DECODE: share * m,
        TOKENS_SUM: share * (x * m + b * m**2 / 2),
    }
    sums = np.empty((len(rows), REQUEST_BINS))
    for row, summand in rows.items():
        sums[row] = np.bincount(bins, summand, REQUEST_BINS)
    return np.ascontiguousarray(sums[:, sums[PROBABILITY] > 0])


def _jumps(requests: NDArray[np.float64]) -> Jumps:
    count = requests.shape[1]
    groups = np.arange(count) * min(JUMP_BINS, count) // count
    share = np.asarray(np.bincount(groups, requests[PROBABILITY]), float)
    return Jumps(np.bincount(groups, requests[WORK]) / share, share)
