"""How long answers will be, as far as a control plane can know: a distribution, never the truth.

A model has one table of chances per class of requests. A request finds its class by the length of
its prompt, or by an estimate that somebody gives with it, whose error is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from scheduling.messages import COVERS, RequestMeta
from serving import ConfigError, RequestMix

MARKS = (0.5 * (1 - COVERS), 0.5, 0.5 * (1 + COVERS))
"""Quantiles of the length at which predictions say the time."""

FEWEST_ATOMS = 200
"""Requests of a mix that a class of prompts has at least."""

MOST_CLASSES = 8
"""Classes of prompts at most."""

ESTIMATES = 48
"""Tables for estimates, at lengths in equal ratios."""


@dataclass(frozen=True, slots=True, eq=False)
class LengthModel:
    """Distributions of decode lengths by class.

    Parameters
    ----------
    survive : shape (C, L + 1)
        Chance that an answer of the class has more than so many tokens; 0 at the last.
    rest : shape (C, L + 1) [tokens]
        Tokens expected beyond so many.
    marks : shape (C, Q) [tokens]
        Quantiles :data:`MARKS` of the length.
    mean : shape (C,) [tokens]
        Of the length.
    edges : shape (P - 1,) [tokens]
        Prompt lengths at which the classes of prompts, the first P, end.
    estimates : shape (E,) [tokens]
        Lengths for which the other classes stand, where requests bring an estimate.
    """

    survive: NDArray[np.float64]
    rest: NDArray[np.float64]
    marks: NDArray[np.float64]
    mean: NDArray[np.float64]
    edges: NDArray[np.float64]
    estimates: NDArray[np.float64]

    @classmethod
    def from_mix(
        cls, mix: RequestMix, *, by_prompt: bool = True, estimate_error: float | None = None
    ) -> LengthModel:
        """Return the model of a mix.

        Parameters
        ----------
        mix
            Joint distribution of prompts and answers, say of last week's requests.
        by_prompt
            Whether the length of the prompt tells something of the length of the answer.
        estimate_error
            Standard deviation of the logarithm of estimate over length, where requests bring an
            estimate (``RequestMeta.predicted_decode_length``); 0 for an oracle. None ignores them.

        Raises
        ------
        ConfigError
            If ``estimate_error`` is negative or not finite.
        """
        if estimate_error is not None and not 0 <= estimate_error < math.inf:
            raise ConfigError("estimate_error", estimate_error, "a finite number >= 0")
        edges = _edges(mix) if by_prompt else np.empty(0)
        of = np.searchsorted(edges, mix.prefill, side="right")
        longest = mix.longest_decode
        weights = [np.where(of == c, mix.probability, 0.0) for c in range(edges.size + 1)]
        shares = [np.bincount(mix.decode, weights=w, minlength=longest + 1) for w in weights]
        estimates = np.empty(0)
        if estimate_error is not None:
            lengths = np.flatnonzero(np.bincount(mix.decode, weights=mix.probability))
            estimates = np.unique(np.geomspace(lengths[0], lengths[-1], ESTIMATES))
            shares += [_likely(mix, each, estimate_error) for each in estimates]
        return cls._of_shares(np.array(shares), edges, estimates)

    @classmethod
    def _of_shares(
        cls, shares: NDArray[np.float64], edges: NDArray[np.float64], estimates: NDArray[np.float64]
    ) -> LengthModel:
        shares = shares / shares.sum(axis=1, keepdims=True)
        longest = shares.shape[1] - 1
        survive = np.maximum(1.0 - np.cumsum(shares, axis=1), 0.0)
        survive[:, -1] = 0.0
        rest = np.cumsum(survive[:, ::-1], axis=1)[:, ::-1]
        below = np.cumsum(shares, axis=1)
        marks = np.array([np.searchsorted(row, np.array(MARKS) - 1e-12) for row in below], float)
        mean = shares @ np.arange(longest + 1.0)
        made = (np.ascontiguousarray(each) for each in (survive, rest, np.maximum(marks, 1.0)))
        return cls(*made, mean, edges, estimates)

    def class_of(self, request: RequestMeta) -> int:
        """Return the class of a request: the row of the tables."""
        estimate = request.predicted_decode_length
        if estimate is not None and self.estimates.size:
            place = int(np.searchsorted(self.estimates, estimate))
            if place and (
                place == self.estimates.size
                or estimate * estimate < self.estimates[place - 1] * self.estimates[place]
            ):
                place -= 1
            return self.edges.size + 1 + place
        if self.edges.size == 0:
            return 0
        return int(np.searchsorted(self.edges, request.prefill_length, side="right"))


def _edges(mix: RequestMix) -> NDArray[np.float64]:
    """Return prompt lengths that part a mix into classes of equal probability, few enough."""
    classes = min(MOST_CLASSES, len(mix) // FEWEST_ATOMS)
    if classes < 2:
        return np.empty(0)
    order = np.argsort(mix.prefill, kind="stable")
    below = np.cumsum(mix.probability[order])
    at = np.searchsorted(below, np.arange(1, classes) / classes)
    edges = np.unique(mix.prefill[order][np.minimum(at, len(mix) - 1)])
    return edges[edges > mix.prefill.min()]


def _likely(mix: RequestMix, estimate: ArrayLike, error: float) -> NDArray[np.float64]:
    """Return the shares of the lengths behind an estimate, by Bayes from those of the mix."""
    prior = np.bincount(mix.decode, weights=mix.probability)
    length = np.flatnonzero(prior)
    off = np.log(np.asarray(estimate, float) / length)
    if error > 0:
        chance = prior[length] * norm.pdf(off / error)
    else:
        chance = np.zeros(length.size)
    if not chance.sum() > 0:
        chance = (np.abs(off) == np.abs(off).min()).astype(float)
    found = np.zeros(prior.size)
    found[length] = chance
    return found
