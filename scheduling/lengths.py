"""How long answers will be, as far as a control plane can know: a distribution, never the truth.

A model has one table of chances per class of requests. A request finds its class by the length of
its prompt, or by an estimate that somebody gives with it, whose error is known.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from scheduling.messages import COVERS, RequestMeta
from serving import ConfigError, RequestMix

MARKS = (0.5 * (1 - COVERS), 0.5, 0.5 * (1 + COVERS))
"""Quantiles of the length at which predictions say the time."""

MOST_CLASSES = 12
"""Classes of prompts at most."""

LEAST_SHARE = 0.02
"""Share of the requests that a class of prompts has at least."""

LEAST_GAIN = 0.004
"""Share of the variance that a cut between classes takes away at least."""

ESTIMATES = 48
"""Tables for estimates, at lengths in equal ratios."""


@dataclass(frozen=True, eq=False)
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
    parts
        The mix of each class of prompts.
    """

    survive: NDArray[np.float64]
    rest: NDArray[np.float64]
    marks: NDArray[np.float64]
    mean: NDArray[np.float64]
    edges: NDArray[np.float64]
    estimates: NDArray[np.float64]
    parts: tuple[RequestMix, ...]

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
        edges = class_edges(mix) if by_prompt else np.empty(0)
        of = np.searchsorted(edges, mix.prefill, side="right")
        parts = tuple(
            RequestMix(mix.prefill[of == c], mix.decode[of == c], mix.probability[of == c],
                       mix.request_class[of == c])
            for c in range(edges.size + 1)
        )  # fmt: skip
        longest = mix.longest_decode
        shares = [
            np.bincount(each.decode, weights=each.probability, minlength=longest + 1)
            for each in parts
        ]
        estimates = np.empty(0)
        if estimate_error is not None:
            lengths = np.flatnonzero(np.bincount(mix.decode, weights=mix.probability))
            estimates = np.unique(np.geomspace(lengths[0], lengths[-1], ESTIMATES))
            shares += [_likely(mix, each, estimate_error) for each in estimates]
        return cls._of_shares(np.array(shares, float), edges, estimates, parts)

    @classmethod
    def _of_shares(
        cls,
        shares: NDArray[np.float64],
        edges: NDArray[np.float64],
        estimates: NDArray[np.float64],
        parts: tuple[RequestMix, ...],
    ) -> LengthModel:
        shares = shares / shares.sum(axis=1, keepdims=True)
        longest = shares.shape[1] - 1
        survive = np.maximum(1.0 - np.cumsum(shares, axis=1), 0.0)
        survive[:, -1] = 0.0
        rest = np.cumsum(survive[:, ::-1], axis=1)[:, ::-1]
        below = np.cumsum(shares, axis=1)
        marks = np.array([np.searchsorted(row, np.array(MARKS) - 1e-12) for row in below], float)
        mean = shares @ np.arange(longest + 1.0)
        return cls(
            np.ascontiguousarray(survive), np.ascontiguousarray(rest), np.maximum(marks, 1.0), mean,
            edges, estimates, parts,
        )  # fmt: skip

    @cached_property
    def _edges(self) -> list[float]:
        return self.edges.tolist()

    def class_of(self, request: RequestMeta) -> int:
        """Return the class of a request for its own answer: the row of the tables."""
        estimate = request.predicted_decode_length
        if estimate is not None and self.estimates.size:
            place = int(np.searchsorted(self.estimates, estimate))
            if place and (
                place == self.estimates.size
                or estimate * estimate < self.estimates[place - 1] * self.estimates[place]
            ):
                place -= 1
            return self.edges.size + 1 + place
        return self.part_of(request.prefill_length)

    def part_of(self, prompt: float) -> int:
        """Return the class of prompts of a prompt."""
        return bisect_right(self._edges, prompt)


def class_edges(mix: RequestMix) -> NDArray[np.float64]:
    """Return prompt lengths that part a mix into classes that are much alike.

    Each cut takes away most of the variance of the logarithms of prompt and answer, measured by
    what they have in the whole mix, until another one would take away less than
    :data:`LEAST_GAIN` of it.
    """
    order = np.argsort(mix.prefill, kind="stable")
    prompt, weight = mix.prefill[order], mix.probability[order]
    values = np.log(np.maximum(np.stack([prompt, mix.decode[order].astype(float)]), 1.0))
    mean = values @ weight
    spread = np.maximum(((values - mean[:, None]) ** 2) @ weight, 1e-12)
    values = (values - mean[:, None]) / np.sqrt(spread)[:, None]
    mass = np.append(0.0, np.cumsum(weight))
    sums = np.concatenate([np.zeros((2, 1)), np.cumsum(values * weight, axis=1)], axis=1)
    cuts = np.flatnonzero(np.diff(prompt) > 0) + 1

    def best(first: int, last: int) -> tuple[float, int]:
        """Return the gain of the best cut of a class, and its place."""
        inside = cuts[(cuts > first) & (cuts < last)]
        left, right = mass[inside] - mass[first], mass[last] - mass[inside]
        inside = inside[np.minimum(left, right) >= LEAST_SHARE]
        if inside.size == 0:
            return 0.0, first
        left, right = mass[inside] - mass[first], mass[last] - mass[inside]
        low = (sums[:, inside] - sums[:, [first]]) / left
        high = (sums[:, [last]] - sums[:, inside]) / right
        gain = left * right / (left + right) * ((high - low) ** 2).sum(axis=0)
        at = int(np.argmax(gain))
        return float(gain[at]), int(inside[at])

    ends = [0, len(mix)]
    while len(ends) <= MOST_CLASSES:
        found = [(*best(first, last), first) for first, last in pairwise(ends)]
        gain, at, _ = max(found)
        if gain < 2 * LEAST_GAIN:
            break
        ends = sorted([*ends, at])
    return prompt[ends[1:-1]]


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
