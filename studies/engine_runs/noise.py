"""What groups of runs say of each metric, and of the noise of their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

METRICS = ("mean_ttft", "mean_e2el", "p50_ttft", "p99_ttft", "p99_e2el", "mean_in_system")
"""What is told, latencies [time] and requests."""


class Counted(NamedTuple):
    """Requests of a run, or of a piece of one, that count: TTFT, E2EL [time], mean in system."""

    ttft: NDArray[np.float64]
    e2el: NDArray[np.float64]
    in_system: float


class Group:
    """Latencies of some runs, or of pieces of them."""

    def __init__(self) -> None:
        self.ttft: list[NDArray[np.float64]] = []
        self.e2el: list[NDArray[np.float64]] = []
        self.in_system: list[float] = []

    def add(self, ttft: NDArray[np.float64], e2el: NDArray[np.float64], in_system: float) -> None:
        """Take one more run: latencies of its requests [time], and its mean number of them."""
        self.ttft.append(ttft)
        self.e2el.append(e2el)
        self.in_system.append(in_system)


def statistics(groups: Sequence[Group]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every one of :data:`METRICS` and its relative standard error, shape (M,) each.

    Parameters
    ----------
    groups
        Alike and independent; the noise is read off the differences between them.
    """
    ttft = [np.concatenate(each.ttft) for each in groups]
    e2el = [np.concatenate(each.e2el) for each in groups]
    runs = np.array([len(each.in_system) for each in groups])
    inside = np.array([np.mean(each.in_system) for each in groups])
    whole = _values(np.concatenate(ttft), np.concatenate(e2el), float(inside.mean()))
    size = np.array([each.size for each in ttft])
    enough = size > 0
    expected = float(size.sum() / runs.sum())
    rows = []
    for i in np.flatnonzero(enough):
        row = _values(ttft[i], e2el[i], float(inside[i]))
        # a mean over all requests is a ratio of sums: its error is that of the sum less the count's
        row[:2] = whole[:2] + (row[:2] - whole[:2]) * size[i] / (runs[i] * expected)
        rows.append(row)
    # about the value of all: percentiles of a part are off to one side where excursions are rare
    spread = np.sqrt(np.sum((np.array(rows) - whole) ** 2, axis=0) / (len(rows) - 1) / len(rows))
    # what takes no time is known exactly
    none = np.where(spread > 0, np.inf, 0.0)
    return whole, np.divide(spread, np.abs(whole), out=none, where=whole != 0)


def _values(
    ttft: NDArray[np.float64], e2el: NDArray[np.float64], in_system: float
) -> NDArray[np.float64]:
    tails = np.percentile(ttft, (50, 99))
    return np.array(
        [ttft.mean(), e2el.mean(), tails[0], tails[1], np.percentile(e2el, 99), in_system]
    )
