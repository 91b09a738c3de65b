"""How long a piece of work takes once it is warm."""

from __future__ import annotations

import time
from collections.abc import Iterator

LONG = 180.0
"""Time of a first turn [s] that no compilation explains, on a busy machine either: once more would
take as long."""

ENOUGH = 0.5
"""Time to spend on repetitions [s]."""


class WarmTurns:
    """Turns of a loop, each timed: the first compiles, the best of the others counts.

    ``for _ in turns: result = work()`` repeats the work; ``turns.seconds`` is its best time.

    Parameters
    ----------
    most
        Turns after the first at most; there are two at least, unless the first took very long.
    """

    def __init__(self, most: int = 7) -> None:
        self._most = most
        self.seconds = float("inf")

    def __iter__(self) -> Iterator[int]:
        began = time.perf_counter()
        yield 0
        first = time.perf_counter() - began
        if first > LONG:
            self.seconds = first
            return
        spent = 0.0
        for turn in range(1, self._most + 1):
            began = time.perf_counter()
            yield turn
            took = time.perf_counter() - began
            self.seconds, spent = min(self.seconds, took), spent + took
            if turn >= 2 and spent > ENOUGH:
                return
