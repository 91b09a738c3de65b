"""The requests of a mix in order of their decode length: to draw from, and to interpolate over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix

NODES = 24
"""Decode lengths at which the time of decoding is worked out; between them it is interpolated."""

GROUPS = 48
"""Groups of like decode length behind the autocorrelation of the batch tokens."""

PARTS = 12
"""Parts of such a group by what requests hold, where fewer requests are to stand for a mix."""

LAGS = 40
"""Lags [iterations] at which that autocorrelation is worked out."""

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_POINTS, _WEIGHTS = 0.5 * (_POINTS + 1.0), 0.5 * _WEIGHTS
"""Quadrature over a stay, exact for the polynomials of degree 7 at most that are integrated."""


@dataclass(frozen=True, slots=True, eq=False)
class Needs:
    """What the requests of a mix take of the batches that they are in.

    At its stage k = 0, 1, ... a request holds ``c = size + growth (k + 1)`` and has
    ``u = each + slope (k + 1)`` to do.

    Parameters
    ----------
    share : shape (J,)
        Of the arrivals.
    stages : shape (J,) [iterations]
        Batches that a request is in.
    size, growth : shape (J,), scalar [tokens]
        What it holds.
    each, slope : shape (J,), scalar [token-iterations]
        What it has to do in a batch.
    brought : shape (J,) [token-iterations]
        What it has to do besides, in its first batch.
    pending : [iterations]
        Batches that go by before its first, on average.
    """

    share: NDArray[np.float64]
    stages: NDArray[np.float64]
    size: NDArray[np.float64]
    growth: float
    each: NDArray[np.float64]
    slope: float
    brought: NDArray[np.float64]
    pending: float


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Every class (p, D) of a mix, by rising D, or by rising p within groups of like D.

    A draw takes half of its requests by their share of the arrivals and half by their share of the
    tokens, so that few samples resolve the percentiles of the end-to-end latency as well: rare long
    requests are drawn more often than they come, and weigh less.

    Parameters
    ----------
    prefill, decode : shape (J,) [tokens, iterations]
        p and D.
    rank : shape (J,)
        Cumulative share of the draw, up to and including the class; the last is 1.
    weight : shape (J,)
        Share of the arrivals over the share of the draw.
    nodes : shape (G,) [iterations]
        Values of D at which the time of decoding is worked out, rising.
    persistence : shape (G,)
        At each node: what the batch tokens of independent requests do besides following the work
        in system, summed over D batches: the variance of the sum over the variance of one batch.
    """

    prefill: NDArray[np.float64]
    decode: NDArray[np.float64]
    rank: NDArray[np.float64]
    weight: NDArray[np.float64]
    nodes: NDArray[np.float64]
    persistence: NDArray[np.float64]

    def at_rank(self, rank: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the index of the class at each ``rank`` in [0, 1] of the draw."""
        return np.searchsorted(self.rank[:-1], rank, side="right")

    def place(self, decode: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where each D lies among the nodes, by its logarithm."""
        return np.interp(np.log(decode), np.log(self.nodes), np.arange(self.nodes.size))


def lengths_of(mix: RequestMix, needs: Needs, *, by_prompt: bool = False) -> Lengths:
    """Return the lengths of a mix.

    Parameters
    ----------
    mix
        Who arrives.
    needs
        What they take of their batches.
    by_prompt
        Whether requests of like D are in the order of p: then an even draw of ranks has the prompts
        of the mix as well as its decode lengths.
    """
    ordered = _in_order(mix, by_prompt=by_prompt)
    persistence = _persistence(_grouped(ordered.group, needs), ordered.nodes)
    return Lengths(
        ordered.prefill, ordered.decode, ordered.rank, ordered.weight, ordered.nodes, persistence
    )


def _nodes(decode: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distinct D where these are few; else D evenly spaced by its logarithm."""
    distinct = np.unique(decode)
    if distinct.size <= NODES:
        return distinct
    return np.unique(np.rint(np.geomspace(distinct[0], distinct[-1], NODES)))


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Share of the arrivals and mean needs of requests of like D, see :class:`Needs`.

    All are of shape (G,) but ``growth`` and ``slope``.
    """

    share: NDArray[np.float64]
    stages: NDArray[np.float64]
    size: NDArray[np.float64]
    growth: float
    each: NDArray[np.float64]
    slope: float


class _Ordered(NamedTuple):
    """What :class:`Lengths` holds of a mix, whatever else a request takes of a batch."""

    prefill: NDArray[np.float64]
    decode: NDArray[np.float64]
    rank: NDArray[np.float64]
    weight: NDArray[np.float64]
    nodes: NDArray[np.float64]
    group: NDArray[np.intp]


@lru_cache(maxsize=8)
def _in_order(mix: RequestMix, *, by_prompt: bool) -> _Ordered:
    """Return the classes of a mix in order; a mix is immutable and known by identity."""
    order = np.lexsort((mix.prefill, mix.decode))
    share, prefill = mix.probability[order], mix.prefill[order]
    decode = mix.decode[order].astype(float)
    kept = share > 0
    share, prefill, decode = share[kept], prefill[kept], decode[kept]
    weight = 2.0 / (1.0 + decode / (share @ decode))
    rank = np.cumsum(share / weight)
    rank /= rank[-1]
    middle = rank - 0.5 * np.diff(rank, prepend=0.0)
    alike = np.minimum((middle * GROUPS).astype(np.intp), GROUPS - 1)
    group = np.zeros(len(mix), np.intp)
    group[order[kept]] = alike
    nodes = _nodes(decode)
    if by_prompt:
        again = np.lexsort((prefill, alike))
        prefill, decode, weight = prefill[again], decode[again], weight[again]
        rank = np.cumsum(np.diff(rank, prepend=0.0)[again])
    return _Ordered(prefill, decode, rank, weight, nodes, group)


def gathered(mix: RequestMix, needs: Needs) -> Needs:
    """Return the needs of fewer requests that stand for those of a mix: the means of alike ones.

    They are alike in D first and then in what they hold; a mix of few classes stays as it is.
    """
    if len(mix) <= GROUPS * PARTS:
        return needs
    group = _in_order(mix, by_prompt=False).group
    order = np.lexsort((needs.size, group))
    share = needs.share[order]
    before = np.cumsum(share) - 0.5 * share
    mass = np.bincount(group, needs.share, GROUPS)
    start = np.cumsum(mass) - mass
    within = (before - start[group[order]]) / np.maximum(mass[group[order]], 1e-300)
    part = group[order] * PARTS + np.clip((within * PARTS).astype(np.intp), 0, PARTS - 1)
    total = np.bincount(part, share, GROUPS * PARTS)
    filled = total > 0

    def mean(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(part, share * of[order], GROUPS * PARTS)[filled] / total[filled]

    return replace(
        needs, share=np.asarray(total[filled], float), stages=mean(needs.stages),
        size=mean(needs.size), each=mean(needs.each), brought=mean(needs.brought),
    )  # fmt: skip


def _grouped(group: NDArray[np.intp], needs: Needs) -> _Groups:
    """Return the mean needs of groups; ``group``, shape (J,), says which atom is in which."""
    mass = np.asarray(np.bincount(group, needs.share, GROUPS), float)
    filled = mass > 0

    def mean(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(group, needs.share * of, GROUPS)[filled] / mass[filled]

    size, each = mean(needs.size), mean(needs.each)
    return _Groups(mass[filled], mean(needs.stages), size, needs.growth, each, needs.slope)


def _persistence(groups: _Groups, batches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of a sum over D batches, from the autocorrelation of one.

    With rho(k) linear between the lags, ``D rho(0) + 2 sum_{k<D} (D - k) rho(k)`` is summed in
    closed form from lag to lag.
    """
    longest = max(2.0, float(batches.max()))
    lags = np.concatenate([[0.0], np.unique(np.rint(np.geomspace(1, longest, LAGS)))])
    memory = _memory(groups, lags)
    slope = np.diff(memory) / np.diff(lags)

    def partial(
        piece: NDArray[np.intp], count: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sums of rho(k) and of k rho(k) over the first ``count`` lags of a piece."""
        a, start, rise = lags[piece], memory[piece], slope[piece]
        linear, square = count * (count + 1) / 2, count * (count + 1) * (2 * count + 1) / 6
        total = count * start + rise * linear
        return total, a * total + start * linear + rise * square

    pieces = np.arange(slope.size)
    whole = [np.append(0.0, np.cumsum(each)) for each in partial(pieces, np.diff(lags))]
    last = np.maximum(batches - 1.0, 0.0)
    piece = np.clip(np.searchsorted(lags, last, side="left") - 1, 0, slope.size - 1)
    total, moment = partial(piece, last - lags[piece])
    later = batches * (whole[0][piece] + total) - (whole[1][piece] + moment)
    return np.maximum(0.0, batches * memory[0] + 2.0 * later)


def _memory(groups: _Groups, lags: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the autocorrelation of X - (Cov(X, V) / Var V) V at ``lags`` [iterations].

    Requests that come as a Poisson stream per iteration have
    ``Cov(X_0, X_k) = E sum_i c_i c_{i+k}`` and alike for V = sum of R.
    """
    decode = groups.stages[:, None, None]
    size_at_0 = (groups.size + 0.5 * groups.growth)[:, None, None]
    each_at_0 = (groups.each + 0.5 * groups.slope)[:, None, None]
    span = np.maximum(decode - lags[:, None], 0.0)
    k = span * _POINTS
    later = k + lags[:, None]

    def left(k: NDArray[np.float64]) -> NDArray[np.float64]:
        return each_at_0 * (decode - k) + groups.slope * (decode**2 - k**2) / 2

    weight = groups.share[:, None, None] * span * _WEIGHTS
    size, sized = size_at_0 + groups.growth * k, size_at_0 + groups.growth * later
    rest, rested = left(k), left(later)
    tokens = (weight * size * sized).sum(axis=(0, 2))
    crossed = (weight * (size * rested + rest * sized)).sum(axis=(0, 2))
    work = (weight * rest * rested).sum(axis=(0, 2))
    slope = crossed[0] / 2 / work[0]
    beside = tokens - slope * crossed + slope**2 * work
    return beside / beside[0] if beside[0] > 0 else np.zeros(lags.size)
