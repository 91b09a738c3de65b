"""What the requests of a mix still have to do, stage by stage, gathered into bins.

A request at stage k (k tokens decoded) holds ``c = p + k + 1`` batch tokens and has
``R = sum of c + g over its remaining stages`` token-iterations to go, g being what a request takes
of a batch besides its tokens, in tokens. Everything that the model of one node needs of a mix are
moments of (R, c) over stages, and of ``w = R(k = 0)`` over requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix
from serving.compilation import compiled

STAGE_BINS, REQUEST_BINS, JUMP_BINS, LENGTH_GROUPS = 224, 80, 40, 16
MOST_STAGES = 48
"""Stages at which one request is looked at; the stages between them are alike."""

LAGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class RequestWork:
    """Moments of a mix's work, per arrival.

    Parameters
    ----------
    stages : shape (10, S)
        By bin of R: sums over stages of 1, R, c, c executing, c^2, and the same times c. A bin
        with no stage is left out. The arrivals that wait for the batch under way to end count as
        half a stage of R = w, c = p + 1 that does not execute: half a batch is how long they do.
    requests : shape (8, B)
        By bin of w: probability, and (over it) sums over requests of w, of R, R^2, c R, c^2 over
        their stages, of p + 1 and of D.
    extra : [tokens]
        g.
    groups : shape (4, G)
        By group of like decode length: share, mean D, mean sum of c over the stages, mean p.
    persistence : shape (G,)
        By group: variance of the sum over D batches, in units of the variance of one, of what
        the batch tokens of independent requests do besides following the work in system.
    mean, second : [token-iterations, (token-iterations)^2]
        E[w] and E[w^2], of the binned law.
    jumps : shape (2, J) [token-iterations, 1]
        Work of arrivals and its probability, in fewer bins.
    """

    extra: float
    stages: NDArray[np.float64]
    requests: NDArray[np.float64]
    groups: NDArray[np.float64]
    persistence: NDArray[np.float64]
    mean: float
    second: float
    jumps: NDArray[np.float64]

    @property
    def mean_decode(self) -> float:
        """E[D] [tokens]."""
        return float(self.groups[0] @ self.groups[1])


@lru_cache(maxsize=32)
def request_work(mix: RequestMix, extra: float = 0.0) -> RequestWork:
    """Return the moments of a mix's work; a mix is immutable and known by identity.

    Parameters
    ----------
    mix
        Who arrives.
    extra : [tokens]
        g; more than -1.
    """
    p, d = mix.prefill, mix.decode.astype(float)
    tokens = p * d + d * (d + 1) / 2
    total = tokens + extra * d
    stages = _stage_moments(p, d, mix.probability, float(total.max()), extra)
    requests = _request_moments(p, d, total, mix.probability, extra)
    groups = _length_groups(mix, tokens)
    mean, second = float(requests[1].sum()), float(np.sum(requests[1] ** 2 / requests[0]))
    return RequestWork(
        extra, stages, requests, groups, _persistence(groups, extra), mean, second, _jumps(requests)
    )


def _stage_moments(
    p: NDArray[np.float64],
    d: NDArray[np.float64],
    share: NDArray[np.float64],
    most: float,
    extra: float,
) -> NDArray[np.float64]:
    sums = np.zeros((10, STAGE_BINS))
    _add_stages(p, d, share, np.log(most) + 1e-9, extra, sums)
    return np.ascontiguousarray(sums[:, sums[0] > 0])


@compiled
def _add_stages(p, d, share, top, extra, sums):
    bins = sums.shape[1]
    for atom in range(p.size):
        p_, d_, a = p[atom], d[atom], share[atom]
        groups = int(min(d_, MOST_STAGES))
        each = p_ + extra
        total = each * d_ + d_ * (d_ + 1.0) / 2.0
        for g in range(groups + 1):
            if g < groups:
                first, last = np.floor(g * d_ / groups), np.floor((g + 1) * d_ / groups)
                weight = a * (last - first)
                k = 0.5 * (first + last)
                c = p_ + k + 0.5
                done = each * k + k * (k + 1.0) / 2.0  # half of the stage in progress is done
                left, executes = total - done - 0.125, 1.0
            else:
                weight, c, left, executes = 0.5 * a, p_ + 1.0, total, 0.0
            b = int(np.log(max(left, 1.0)) / top * bins)
            b = min(max(b, 0), bins - 1)
            sums[0, b] += weight
            sums[1, b] += weight * left
            sums[2, b] += weight * c
            sums[3, b] += weight * c * executes
            sums[4, b] += weight * c * c
            sums[5, b] += weight * c
            sums[6, b] += weight * left * c
            sums[7, b] += weight * c * c
            sums[8, b] += weight * c * c * executes
            sums[9, b] += weight * c * c * c


def _request_moments(
    p: NDArray[np.float64],
    d: NDArray[np.float64],
    total: NDArray[np.float64],
    share: NDArray[np.float64],
    extra: float,
) -> NDArray[np.float64]:
    """Return sums over stages, in closed form where they are polynomials in D."""
    order = np.argsort(total, kind="stable")
    mass = np.cumsum((share * total**2)[order])
    which = np.minimum((mass / mass[-1] * REQUEST_BINS).astype(int), REQUEST_BINS - 1)
    bins = np.empty(total.size, int)
    bins[order] = which
    x = p + 0.5  # c at stage k is x + k + 1/2; R at its middle the integral of y + k from k to D
    y = x + extra
    rows = (
        share,
        share * total,
        share * (y * d**2 / 2 + d**3 / 3),
        share * (y**2 * d**3 / 3 + 5 * y * d**4 / 12 + 2 * d**5 / 15),
        share * (x * y * d**2 / 2 + x * d**3 / 3 + y * d**3 / 6 + d**4 / 8),
        share * (x**2 * d + x * d**2 + d**3 / 3),
        share * (p + 1),
        share * d,
    )
    sums = np.stack([np.asarray(np.bincount(bins, row, REQUEST_BINS), float) for row in rows])
    return np.ascontiguousarray(sums[:, sums[0] > 0])


def _jumps(requests: NDArray[np.float64]) -> NDArray[np.float64]:
    count = requests.shape[1]
    groups = np.arange(count) * min(JUMP_BINS, count) // count
    share = np.asarray(np.bincount(groups, requests[0]), float)
    return np.stack([np.bincount(groups, requests[1]) / share, share])


def _length_groups(mix: RequestMix, total: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(mix.decode, kind="stable")
    share = mix.probability[order]
    middle = np.cumsum(share) - 0.5 * share
    which = np.minimum((middle * LENGTH_GROUPS).astype(int), LENGTH_GROUPS - 1)
    # a long tail matters more than its share: the last group is split again
    tail = middle > 1 - 1 / LENGTH_GROUPS
    which[tail] += np.minimum(((middle[tail] - 1) * LENGTH_GROUPS + 1) * 4, 3).astype(int)
    columns = (np.ones(total.size), mix.decode[order], total[order], mix.prefill[order])
    sums = np.stack([np.asarray(np.bincount(which, share * each), float) for each in columns])
    sums = sums[:, sums[0] > 0]
    sums[1:] /= sums[0]
    return np.ascontiguousarray(sums)


def _persistence(groups: NDArray[np.float64], extra: float) -> NDArray[np.float64]:
    """Return the variance of a sum over D batches from the autocorrelation of one."""
    longest = max(2.0, float(groups[1].max()))
    lags = np.concatenate([[0.0], np.unique(np.rint(np.geomspace(1, longest, LAGS)))])
    memory = _memory(groups, lags, extra)
    out = np.empty(groups.shape[1])
    for g, decode in enumerate(groups[1]):
        later = np.arange(1, int(np.ceil(decode)))
        rest = np.maximum(decode - later, 0.0) * np.interp(later, lags, memory)
        out[g] = max(0.0, decode * memory[0] + 2 * rest.sum())
    return out


def _memory(
    groups: NDArray[np.float64], lags: NDArray[np.float64], extra: float
) -> NDArray[np.float64]:
    """Return the autocorrelation of X - (Cov(X, V) / Var V) V at ``lags`` [iterations].

    Requests that come as a Poisson stream per iteration have
    ``Cov(X_0, X_k) = E sum_i c_i c_{i+k}`` and alike for V = sum of R.
    """
    tokens, crossed, work = np.zeros(lags.size), np.zeros(lags.size), np.zeros(lags.size)
    for share, decode, _, prefill in groups.T:
        x = prefill + 0.5
        i = (np.arange(256) + 0.5) / 256

        def size(k: NDArray[np.float64], x: float = x) -> NDArray[np.float64]:
            return x + k

        def left(
            k: NDArray[np.float64], x: float = x, decode: float = decode
        ) -> NDArray[np.float64]:
            return (x + extra) * (decode - k) + (decode**2 - k**2) / 2

        span = np.maximum(decode - lags, 0.0)[:, None]
        k = span * i
        later = k + lags[:, None]
        each = share * span[:, 0]
        tokens += each * (size(k) * size(later)).mean(axis=1)
        crossed += each * (size(k) * left(later) + left(k) * size(later)).mean(axis=1)
        work += each * (left(k) * left(later)).mean(axis=1)
    slope = crossed[0] / 2 / work[0]
    rest = tokens - slope * crossed + slope**2 * work
    return rest / rest[0] if rest[0] > 0 else np.zeros(lags.size)
