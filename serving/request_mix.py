"""The joint distribution of prefill and decode lengths that a workload draws from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import check_fields, checked
from serving.errors import WorkloadError

LONGEST_DECODE = 10**8
"""[tokens] Survival functions have an entry per decoded token: 0.8 GB each at this length."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestMix:
    """A discrete distribution over (p, D): one atom per distinct pair and class.

    Parameters
    ----------
    prefill, decode : shape (J,) [tokens]
        p and D of each atom, D whole, from 1 to :data:`LONGEST_DECODE`; p may be a mean,
        hence not whole.
    probability : shape (J,)
        Positive, normalised here to sum to 1.
    request_class : shape (J,)
        Index of the class each atom belongs to.
    """

    prefill: NDArray[np.float64]
    decode: NDArray[np.int64]
    probability: NDArray[np.float64]
    request_class: NDArray[np.int64]
    _means: tuple[float, float, float] = field(init=False, repr=False)  # asked for very often

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.prefill.shape == self.decode.shape == self.probability.shape):
            raise WorkloadError("the arrays of a request mix must have one length")
        if self.prefill.size == 0 or (self.decode < 1).any() or (self.probability < 0).any():
            raise WorkloadError("a request mix needs D >= 1 and probabilities >= 0")
        if self.decode.max() > LONGEST_DECODE:
            raise WorkloadError(
                f"allowed: <= {LONGEST_DECODE}",
                column="decode_length",
                value=int(self.decode.max()),
            )
        probability = self.probability / self.probability.sum()
        d = self.decode.astype(float)
        means = self.prefill, self.decode, self.prefill * d + d * (d + 1) / 2
        object.__setattr__(self, "probability", probability)
        object.__setattr__(self, "_means", tuple(float(probability @ each) for each in means))

    @classmethod
    @checked()
    def from_lengths(
        cls,
        prefill: ArrayLike,
        decode: ArrayLike,
        weight: ArrayLike | None = None,
        request_class: ArrayLike | None = None,
    ) -> RequestMix:
        """Return the mix of the given lengths, equal atoms merged.

        Parameters
        ----------
        prefill, decode : shape (R,) [tokens]
        weight : shape (R,)
            Relative frequency of each; equal by default.
        request_class : shape (R,)
        """
        sizes = {np.shape(each) for each in (prefill, decode, weight, request_class)
                 if each is not None}  # fmt: skip
        if len(sizes) != 1 or len(sizes.pop()) != 1:
            raise WorkloadError("the lengths, weights and classes of a mix are lists of one length")
        p = np.asarray(prefill, float)
        d = np.asarray(decode, np.int64)
        w = np.ones(p.size) if weight is None else np.asarray(weight, float)
        c = np.zeros(p.size, np.int64) if request_class is None else np.asarray(request_class)
        order = np.lexsort((d, p, c))
        c, p, d = c[order], p[order], d[order]
        is_new = np.append(True, (np.diff(c) != 0) | (np.diff(p) != 0) | (np.diff(d) != 0))[
            : p.size
        ]
        mass = np.bincount(np.cumsum(is_new) - 1, weights=w[order]).astype(float)
        return cls(p[is_new], d[is_new], mass, c[is_new].astype(np.int64))

    def __len__(self) -> int:
        return self.prefill.size

    @property
    def mean_prefill(self) -> float:
        """E[p] [tokens]."""
        return self._means[0]

    @property
    def mean_decode(self) -> float:
        """E[D] [tokens]."""
        return self._means[1]

    @property
    def longest_decode(self) -> int:
        """Largest D [tokens]."""
        return int(self.decode.max())

    @property
    def work(self) -> float:
        """W = E[p D + D (D + 1) / 2] [token-iterations] (model: work of a request)."""
        return self._means[2]

    def survival(self) -> NDArray[np.float64]:
        """Return G(k) = P(D > k) for k = 0..D_max, shape (D_max + 1,)."""
        return self._tail(self.probability)

    def prefill_survival(self) -> NDArray[np.float64]:
        """Return P(k) = E[p; D > k] [tokens] for k = 0..D_max, shape (D_max + 1,)."""
        return self._tail(self.probability * self.prefill)

    def _tail(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.bincount(self.decode, weights=mass, minlength=self.longest_decode + 1)
        return np.append(np.cumsum(at[:0:-1])[::-1], 0.0)
