"""What the fluid knows of request lengths: hazards and prefills by class and stage.

With independent lengths the hazard ``q_i = P(D = i | D >= i)`` closes the model exactly, however
coarse the classes, as long as progress and hidden length stay together (swapping). A sacrificed
request starts over with the same hidden length, so there the classes are the lengths themselves
(model, sections 2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix


@dataclass(frozen=True, slots=True, eq=False)
class LengthClasses:
    """Lengths by class j and stage i = 1..I.

    Parameters
    ----------
    share : shape (J,)
        pi, share of each class among arrivals.
    hazard : shape (J, I)
        q = P(D = i | D >= i); 1 at and beyond the last stage of a class.
    prefill : shape (J, I) [tokens]
        p = E[prefill | D >= i].
    survival : shape (J, I + 1)
        P(D > k) within the class, k = 0..I.
    """

    share: NDArray[np.float64]
    hazard: NDArray[np.float64]
    prefill: NDArray[np.float64]
    survival: NDArray[np.float64]

    @property
    def stages(self) -> int:
        """I, the longest decode length [tokens]."""
        return self.hazard.shape[1]

    def at_age(self, furthest: int) -> NDArray[np.float64]:
        """Return the class of a request known to have more than ``furthest`` tokens, (J,)."""
        alive = self.share * self.survival[:, min(furthest, self.stages)]
        total = alive.sum()
        return alive / total if total > 0 else alive


def classes_of_mix(mix: RequestMix) -> LengthClasses:
    """Return the classes that the mix itself names, all lengths of a class together."""
    return _tabulated(mix, np.unique(mix.request_class, return_inverse=True)[1])


def classes_by_length(mix: RequestMix, most: int = 64) -> LengthClasses:
    """Return classes of (nearly) one decode length each.

    Parameters
    ----------
    most
        Largest number of classes. With more distinct lengths, neighbours share a class so that
        each carries a similar part of the work.
    """
    lengths, which = np.unique(mix.decode, return_inverse=True)
    if lengths.size <= most:
        return _tabulated(mix, which)
    mass = np.bincount(which, weights=mix.probability * mix.decode)
    middle = np.cumsum(mass) - 0.5 * mass
    group = np.minimum((middle / mass.sum() * most).astype(int), most - 1)
    return _tabulated(mix, np.unique(group[which], return_inverse=True)[1])


def _tabulated(mix: RequestMix, group: NDArray[np.intp]) -> LengthClasses:
    """Tabulate ``mix`` with its atoms dealt to classes ``group``."""
    shape = (int(group.max()) + 1, mix.longest_decode + 1)
    mass, tokens = np.zeros(shape), np.zeros(shape)
    np.add.at(mass, (group, mix.decode), mix.probability)
    np.add.at(tokens, (group, mix.decode), mix.probability * mix.prefill)
    reached = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1][:, 1:]
    held = np.cumsum(tokens[:, ::-1], axis=1)[:, ::-1][:, 1:]
    alive = np.arange(1, shape[1]) <= _last(mass)[:, None]
    safe = np.where(alive, reached, 1.0)
    share = mass.sum(axis=1)
    hazard = np.where(alive, mass[:, 1:] / safe, 1.0)
    hazard[np.arange(shape[0]), _last(mass) - 1] = 1.0
    survival = np.column_stack([reached * alive, np.zeros(shape[0])]) / share[:, None]
    return LengthClasses(
        share=share,
        hazard=hazard,
        prefill=np.where(alive, held / safe, 0.0),
        survival=survival,
    )


def _last(mass: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the longest length of each class, (J,)."""
    return mass.shape[1] - 1 - np.argmax(mass[:, ::-1] > 0, axis=1)
