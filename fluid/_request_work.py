"""What the requests of a mix still have to do, stage by stage, gathered into bins.

A request at stage k (k tokens decoded) holds ``c = p + k + 1`` batch tokens and has
``R = sum of c over its remaining stages`` token-iterations to go. Everything that the model of one
node needs of a mix are moments of (R, c) over stages, and of ``w = R(k = 0)`` over requests.
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
    requests : shape (7, B)
        By bin of w: probability, and (over it) sums over requests of w, of R, R^2, c R, c^2 over
        their stages, and of p + 1.
    groups : shape (4, G)
        By group of like decode length: share, mean D, mean w, mean p.
    persistence : shape (G,)
        By group: variance of the sum over D batches, in units of the variance of one, of what
        the batch tokens of independent requests do besides following the work in system.
    mean, second : [token-iterations, (token-iterations)^2]
        W = E[w] and E[w^2], of the binned law.
    jumps : shape (2, J) [token-iterations, 1]
        Work of arrivals and its probability, in fewer bins.
    """

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
def request_work(mix: RequestMix) -> RequestWork:
    """Return the moments of a mix's work; a mix is immutable and known by identity."""
    p, d = mix.prefill, mix.decode.astype(float)
    total = p * d + d * (d + 1) / 2
    stages = _stage_moments(p, d, mix.probability, float(total.max()))
    requests = _request_moments(p, d, total, mix.probability)
    groups = _length_groups(mix, total)
    mean, second = float(requests[1].sum()), float(np.sum(requests[1] ** 2 / requests[0]))
    return RequestWork(
        stages, requests, groups, _persistence(groups), mean, second, _jumps(requests)
    )


def _stage_moments(
    p: NDArray[np.float64], d: NDArray[np.float64], share: NDArray[np.float64], most: float
) -> NDArray[np.float64]:
    sums = np.zeros((10, STAGE_BINS))
    _add_stages(p, d, share, np.log(most) + 1e-9, sums)
    return np.ascontiguousarray(sums[:, sums[0] > 0])


@compiled
def _add_stages(p, d, share, top, sums):
    bins = sums.shape[1]
    for atom in range(p.size):
        p_, d_, a = p[atom], d[atom], share[atom]
        groups = int(min(d_, MOST_STAGES))
        total = p_ * d_ + d_ * (d_ + 1.0) / 2.0
        for g in range(groups + 1):
            if g < groups:
                first, last = np.floor(g * d_ / groups), np.floor((g + 1) * d_ / groups)
                weight = a * (last - first)
                k = 0.5 * (first + last)
                c = p_ + k + 0.5
                done = p_ * k + k * (k + 1.0) / 2.0  # half of the stage in progress is done
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
) -> NDArray[np.float64]:
    """Return sums over stages, in closed form where they are polynomials in D."""
    order = np.argsort(total, kind="stable")
    mass = np.cumsum((share * total**2)[order])
    which = np.minimum((mass / mass[-1] * REQUEST_BINS).astype(int), REQUEST_BINS - 1)
    bins = np.empty(total.size, int)
    bins[order] = which
    x = p + 0.5  # c at stage k is x + k + 1/2; R at its middle the integral from k to D
    rows = (
        share,
        share * total,
        share * (x * d**2 / 2 + d**3 / 3),
        share * (x**2 * d**3 / 3 + 5 * x * d**4 / 12 + 2 * d**5 / 15),
        share * (x * d + d**2 / 2) ** 2 / 2,
        share * (x**2 * d + x * d**2 + d**3 / 3),
        share * (p + 1),
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


def _persistence(groups: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of a sum over D batches from the autocorrelation of one."""
    longest = max(2.0, float(groups[1].max()))
    lags = np.concatenate([[0.0], np.unique(np.rint(np.geomspace(1, longest, LAGS)))])
    memory = _memory(groups, lags)
    out = np.empty(groups.shape[1])
    for g, decode in enumerate(groups[1]):
        later = np.arange(1, int(np.ceil(decode)))
        rest = np.maximum(decode - later, 0.0) * np.interp(later, lags, memory)
        out[g] = max(0.0, decode * memory[0] + 2 * rest.sum())
    return out


def _memory(groups: NDArray[np.float64], lags: NDArray[np.float64]) -> NDArray[np.float64]:
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
            return x * (decode - k) + (decode**2 - k**2) / 2

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
