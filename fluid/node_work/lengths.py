"""The requests of a mix in order of their decode length: to draw from, and to interpolate over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix

NODES = 24
"""Decode lengths at which the time of decoding is worked out; between them it is interpolated."""

GROUPS = 48
"""Groups of like decode length behind the autocorrelation of the batch tokens."""

LAGS = 40
"""Lags [iterations] at which that autocorrelation is worked out."""

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_POINTS, _WEIGHTS = 0.5 * (_POINTS + 1.0), 0.5 * _WEIGHTS
"""Quadrature over a stay, exact for the polynomials of degree 7 at most that are integrated."""


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Every class (p, D) of a mix, by rising D.

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


def lengths_of(mix: RequestMix, extra: float) -> Lengths:
    """Return the lengths of a mix.

    Parameters
    ----------
    mix
        Who arrives.
    extra : [tokens]
        What a request takes of a batch besides its tokens.
    """
    ordered = _in_order(mix)
    persistence = _persistence(ordered.groups, ordered.nodes, extra)
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
    """Share of the arrivals, mean D and mean p, of requests of like D; shape (G,) each."""

    share: NDArray[np.float64]
    decode: NDArray[np.float64]
    prefill: NDArray[np.float64]


class _Ordered(NamedTuple):
    """What :class:`Lengths` holds of a mix, whatever else a request takes of a batch."""

    prefill: NDArray[np.float64]
    decode: NDArray[np.float64]
    rank: NDArray[np.float64]
    weight: NDArray[np.float64]
    nodes: NDArray[np.float64]
    groups: _Groups


@lru_cache(maxsize=8)
def _in_order(mix: RequestMix) -> _Ordered:
    """Return the classes of a mix by rising D; a mix is immutable and known by identity."""
    order = np.lexsort((mix.prefill, mix.decode))
    share, prefill = mix.probability[order], mix.prefill[order]
    decode = mix.decode[order].astype(float)
    kept = share > 0
    share, prefill, decode = share[kept], prefill[kept], decode[kept]
    weight = 2.0 / (1.0 + decode / (share @ decode))
    rank = np.cumsum(share / weight)
    rank /= rank[-1]
    groups = _grouped(share, prefill, decode, rank)
    return _Ordered(prefill, decode, rank, weight, _nodes(decode), groups)


def _grouped(
    share: NDArray[np.float64],
    prefill: NDArray[np.float64],
    decode: NDArray[np.float64],
    rank: NDArray[np.float64],
) -> _Groups:
    middle = rank - 0.5 * np.diff(rank, prepend=0.0)
    group = np.minimum((middle * GROUPS).astype(np.intp), GROUPS - 1)
    mass = np.asarray(np.bincount(group, share, GROUPS), float)
    filled = mass > 0

    def mean(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(group, share * of, GROUPS)[filled] / mass[filled]

    return _Groups(mass[filled], mean(decode), mean(prefill))


def _persistence(
    groups: _Groups, batches: NDArray[np.float64], extra: float
) -> NDArray[np.float64]:
    """Return the variance of a sum over D batches, from the autocorrelation of one.

    With rho(k) linear between the lags, ``D rho(0) + 2 sum_{k<D} (D - k) rho(k)`` is summed in
    closed form from lag to lag.
    """
    longest = max(2.0, float(batches.max()))
    lags = np.concatenate([[0.0], np.unique(np.rint(np.geomspace(1, longest, LAGS)))])
    memory = _memory(groups, lags, extra)
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


def _memory(groups: _Groups, lags: NDArray[np.float64], extra: float) -> NDArray[np.float64]:
    """Return the autocorrelation of X - (Cov(X, V) / Var V) V at ``lags`` [iterations].

    Requests that come as a Poisson stream per iteration have
    ``Cov(X_0, X_k) = E sum_i c_i c_{i+k}`` and alike for V = sum of R.
    """
    decode = groups.decode[:, None, None]
    size_at_0 = (groups.prefill + 0.5)[:, None, None]
    span = np.maximum(decode - lags[:, None], 0.0)
    k = span * _POINTS
    later = k + lags[:, None]

    def left(k: NDArray[np.float64]) -> NDArray[np.float64]:
        return (size_at_0 + extra) * (decode - k) + (decode**2 - k**2) / 2

    weight = groups.share[:, None, None] * span * _WEIGHTS
    size, sized, rest, rested = size_at_0 + k, size_at_0 + later, left(k), left(later)
    tokens = (weight * size * sized).sum(axis=(0, 2))
    crossed = (weight * (size * rested + rest * sized)).sum(axis=(0, 2))
    work = (weight * rest * rested).sum(axis=(0, 2))
    slope = crossed[0] / 2 / work[0]
    beside = tokens - slope * crossed + slope**2 * work
    return beside / beside[0] if beside[0] > 0 else np.zeros(lags.size)
