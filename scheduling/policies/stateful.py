"""Policies that remember something from one request to the next."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from numpy.typing import NDArray

from scheduling.messages import RequestMeta
from scheduling.signals import View, lowest

CROWDED = 1.25
"""An instance with more than this many times the mean is not asked for a prefix that it knows."""


class AtRandom:
    """Any instance, each as likely."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def __call__(self, view: View, request: RequestMeta) -> int:
        """Choose."""
        return self._random.randrange(view.size)


class InTurn:
    """One after the other."""

    def __init__(self, seed: int) -> None:
        self._next = -1

    def __call__(self, view: View, request: RequestMeta) -> int:
        """Choose."""
        self._next = (self._next + 1) % view.size
        return self._next


class SomeOf:
    """The best of K instances drawn at random, by a score."""

    def __init__(self, score: Callable[[View, RequestMeta], NDArray], k: int, seed: int) -> None:
        self._score, self._k, self._random = score, k, Random(seed)

    def __call__(self, view: View, request: RequestMeta) -> int:
        """Choose."""
        k = min(self._k, view.size)
        view.among = None if k == view.size else self._random.sample(range(view.size), k)
        choice = lowest(view, self._score(view, request))
        view.among = None
        return choice


class ByPrefix:
    """The instance that got the same prefix last, unless it is crowded; else the shortest queue.

    A request whose prompt begins with nothing that is known joins the shortest queue. What the
    router has sent since is counted in.
    """

    def __init__(self, seed: int) -> None:
        self._home: dict[int, int] = {}

    def __call__(self, view: View, request: RequestMeta) -> int:
        """Choose."""
        load = view.in_system + view.own
        home = self._home.get(view.prefix) if view.prefix else None
        if home is not None and load[home] <= CROWDED * (load.mean() + 1):
            return home
        choice = lowest(view, load)
        if view.prefix:
            self._home[view.prefix] = choice
        return choice
