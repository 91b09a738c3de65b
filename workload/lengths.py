"""Define distributions of lengths and combine them into the mix that a workload draws from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import RequestMix, WorkloadError

MAX_ATOMS = 5_000_000
"""Most (p, D) pairs a mix may hold: beyond it a class should be described more coarsely."""


@dataclass(frozen=True, slots=True, eq=False)
class LengthDistribution:
    """A distribution over whole lengths >= 1 with finite support.

    Parameters
    ----------
    value : shape (V,) [tokens]
        Distinct, increasing.
    probability : shape (V,)
        Positive, normalised here to sum to 1.

    Raises
    ------
    WorkloadError
        If a length is below 1 or a probability is negative or not finite.
    """

    value: NDArray[np.int64]
    probability: NDArray[np.float64]

    def __post_init__(self) -> None:
        value, mass = np.asarray(self.value), np.asarray(self.probability, float)
        if value.ndim != 1 or value.size == 0 or value.shape != mass.shape:
            raise WorkloadError("a length distribution needs one probability per length")
        if not np.isfinite(mass).all() or (mass < 0).any() or mass.sum() <= 0:
            raise WorkloadError("the probabilities of lengths must be >= 0 and not all 0")
        if (value < 1).any() or (value != np.floor(value)).any():
            wrong = value[(value < 1) | (value != np.floor(value))][0]
            raise WorkloadError("allowed: a whole number >= 1", column="length", value=wrong.item())
        distinct, where = np.unique(value[mass > 0].astype(np.int64), return_inverse=True)
        total = np.bincount(where, weights=mass[mass > 0])
        object.__setattr__(self, "value", distinct)
        object.__setattr__(self, "probability", total / total.sum())

    @classmethod
    def deterministic(cls, length: int) -> LengthDistribution:
        """Return the distribution that is always ``length`` [tokens]."""
        return cls(np.array([length]), np.ones(1))

    @classmethod
    def uniform(cls, first: int, last: int) -> LengthDistribution:
        """Return whole lengths from ``first`` to ``last`` [tokens], both ends included."""
        if last < first:
            raise WorkloadError(f"a uniform length goes from low to high, not {first} to {last}")
        value = np.arange(first, last + 1)
        return cls(value, np.ones(value.size))

    @classmethod
    def geometric(cls, mean: float, tail: float = 1e-12) -> LengthDistribution:
        """Return the geometric distribution on 1, 2, ... with the given mean [tokens].

        The support ends where no more than ``tail`` of the probability lies beyond.
        """
        if not (math.isfinite(mean) and mean >= 1):
            raise WorkloadError("the mean of a geometric length must be a finite number >= 1")
        if mean == 1:
            return cls.deterministic(1)
        log_survival = math.log1p(-1 / mean)
        value = np.arange(1, math.ceil(math.log(tail) / log_survival) + 1)
        return cls(value, np.exp((value - 1) * log_survival))

    @classmethod
    def gamma(cls, mean: float, cv: float, tail: float = 1e-12) -> LengthDistribution:
        """Return gamma lengths of the given mean [tokens] and CV, rounded up to whole tokens.

        With ``cv`` 0 the length is always ``mean``, rounded up. The support ends where no more
        than ``tail`` of the probability lies beyond.
        """
        if not (math.isfinite(mean) and mean > 0 and math.isfinite(cv) and cv >= 0):
            raise WorkloadError("a gamma length needs a finite mean > 0 and a finite CV >= 0")
        if cv == 0:
            return cls.deterministic(math.ceil(mean))
        from scipy.special import gammainc, gammainccinv

        shape = cv**-2
        last = math.ceil(float(gammainccinv(shape, tail)) * mean / shape)
        below = gammainc(shape, np.arange(last + 1) * shape / mean)
        return cls(np.arange(1, last + 1), np.diff(below))

    @classmethod
    def lognormal(cls, mean: float, cv: float, tail: float = 1e-12) -> LengthDistribution:
        """Return lognormal lengths of the given mean [tokens] and CV, rounded up to whole tokens.

        The support ends where no more than ``tail`` of the probability lies beyond.
        """
        if not (math.isfinite(mean) and mean > 0 and math.isfinite(cv) and cv > 0):
            raise WorkloadError("a lognormal length needs a finite mean > 0 and a finite CV > 0")
        from scipy.special import ndtr, ndtri

        spread = math.sqrt(math.log1p(cv**2))
        middle = math.log(mean) - spread**2 / 2
        last = math.ceil(math.exp(middle - spread * float(ndtri(tail))))
        if last > MAX_ATOMS:
            raise WorkloadError(f"the lengths reach {last} tokens; allowed: <= {MAX_ATOMS}")
        below = ndtr((np.log(np.arange(1, last + 1)) - middle) / spread)
        return cls(np.arange(1, last + 1), np.diff(below, prepend=0.0))

    @classmethod
    def empirical(cls, lengths: ArrayLike) -> LengthDistribution:
        """Return the distribution of observed ``lengths``, shape (R,) [tokens]."""
        value = np.asarray(lengths)
        return cls(value, np.ones(value.size))

    @classmethod
    def mixture(cls, parts: Sequence[tuple[float, LengthDistribution]]) -> LengthDistribution:
        """Return the mixture of (weight, distribution) pairs."""
        total = sum(weight for weight, _ in parts)
        return cls(
            np.concatenate([part.value for _, part in parts]),
            np.concatenate([weight / total * part.probability for weight, part in parts]),
        )

    @property
    def mean(self) -> float:
        """E[X] [tokens]."""
        return float(self.probability @ self.value)

    @property
    def variance(self) -> float:
        """Var[X] [tokens^2]."""
        return float(self.probability @ (self.value - self.mean) ** 2)


@dataclass(frozen=True, slots=True, eq=False)
class RequestClass:
    """Requests whose p and D are drawn independently of each other.

    Parameters
    ----------
    name
        For people; classes are told apart by their index in the mix.
    weight
        Relative frequency among the classes of a workload, > 0.
    prefill, decode
        Distributions of p and D [tokens].
    """

    name: str
    weight: float
    prefill: LengthDistribution
    decode: LengthDistribution


def mix_of(classes: Sequence[RequestClass]) -> RequestMix:
    """Return the exact joint distribution of (p, D) over ``classes``.

    Raises
    ------
    WorkloadError
        If a weight is not positive or the mix would hold more than :data:`MAX_ATOMS` pairs.
    """
    for each in classes:
        if not (math.isfinite(each.weight) and each.weight > 0):
            raise WorkloadError(f"the weight of class {each.name!r} is {each.weight}; allowed: > 0")
    atoms = sum(each.prefill.value.size * each.decode.value.size for each in classes)
    if atoms > MAX_ATOMS:
        raise WorkloadError(f"the mix has {atoms} (p, D) pairs; allowed: <= {MAX_ATOMS}")
    pairs = [np.meshgrid(each.prefill.value, each.decode.value, indexing="ij") for each in classes]
    mass = [
        each.weight * np.outer(each.prefill.probability, each.decode.probability)
        for each in classes
    ]
    index = [np.full(each.size, j) for j, each in enumerate(mass)]
    return RequestMix(
        np.concatenate([prefill.ravel() for prefill, _ in pairs]).astype(float),
        np.concatenate([decode.ravel() for _, decode in pairs]).astype(np.int64),
        np.concatenate([each.ravel() for each in mass]),
        np.concatenate(index).astype(np.int64),
    )


def restricted(mix: RequestMix, L_filter: int) -> tuple[RequestMix, float]:
    """Return the mix of the requests with D <= ``L_filter`` and the share they are.

    Raises
    ------
    WorkloadError
        If no request is that short.
    """
    kept = mix.decode <= L_filter
    if not kept.any():
        raise WorkloadError(
            f"L_filter = {L_filter} drops every request; the shortest decodes {mix.decode.min()}"
        )
    return _part(mix, kept)


def no_longer_than(mix: RequestMix, tokens: float) -> tuple[RequestMix, float]:
    """Return the mix of the requests with p + D <= ``tokens`` and the share they are.

    Raises
    ------
    WorkloadError
        If no request is that short.
    """
    need = mix.prefill + mix.decode
    if need.min() > tokens:
        raise WorkloadError(f"no request fits: the shortest holds {need.min():g} tokens")
    return _part(mix, need <= tokens)


def _part(mix: RequestMix, kept: NDArray[np.bool_]) -> tuple[RequestMix, float]:
    part = RequestMix(
        mix.prefill[kept], mix.decode[kept], mix.probability[kept], mix.request_class[kept]
    )
    return part, float(mix.probability[kept].sum())


def picked(probability: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index that each of some uniform numbers falls to."""
    below = np.cumsum(probability)
    found = np.searchsorted(below / below[-1], uniform, side="right")
    return np.minimum(found, probability.size - 1)
