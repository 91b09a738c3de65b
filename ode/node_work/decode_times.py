"""How long decodes take, by when they start, how many batches they need and the work they meet.

Where nothing changes the backward equation is solved once. Where the arrival rate changes it is
solved window by window from the last one back: what is known of a decode that outlasts a window is
what is known at its end, carried back through it. So decodes that last longer than a rate, and
those that are left over when arrivals have ended, see the batches that they are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid import WorkClosure
from ode.node_work.backward import decode_moments, decode_moments_before
from ode.node_work.generator import Levels, generator, grid_of, levels_of, requests_per_token

START_GRID: dict[str, Any] = {"steps": 14, "near": 2.5, "widening": 1.3}
"""Resolution of the levels at which decoding may start."""

BEFORE = np.array([1.0, 0.7, 0.45, 0.27, 0.15, 0.07, 0.03])
"""Moments before a sudden change of the rate, over the longest stay, at which decodes may start."""

SUDDEN = 0.05
"""Change of the rate, over the capacity, that decodes are to see coming."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodeTimes:
    """What is known of the time that D batches take.

    Parameters
    ----------
    when : shape (T,) [time]
        Moments of the start, rising; one if it does not matter.
    work : shape (S,) [token-iterations]
        Work in system at the start.
    table : shape (T, G, S, 4)
        Per batch, by moment, node of ``closure.work.lengths`` and work: the rows ``MEAN ... MORE``
        of :mod:`ode.node_work.backward`.
    """

    when: NDArray[np.float64]
    work: NDArray[np.float64]
    table: NDArray[np.float64]

    def at(
        self, place: NDArray[np.float64], work: NDArray[np.float64], when: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the rows at fractional nodes, works and moments, shape (4, N)."""
        _, nodes, levels, rows = self.table.shape
        level = np.interp(work, self.work, np.arange(levels))
        i = np.minimum(place.astype(np.intp), max(nodes - 2, 0))
        j = np.minimum(level.astype(np.intp), levels - 2)
        over, up = (place - i)[:, None], (level - j)[:, None]
        flat, at = self.table.reshape(-1, rows), i * levels + j
        if self.when.size == 1:
            return _between(flat, at, over, up, nodes, levels).T
        moment = np.interp(when, self.when, np.arange(self.when.size))
        k = np.minimum(moment.astype(np.intp), self.when.size - 2)
        late, at = (moment - k)[:, None], at + k * (nodes * levels)
        early = _between(flat, at, over, up, nodes, levels)
        return (
            early + late * (_between(flat, at + nodes * levels, over, up, nodes, levels) - early)
        ).T


def _between(
    flat: NDArray[np.float64],
    at: NDArray[np.intp],
    over: NDArray[np.float64],
    up: NDArray[np.float64],
    nodes: int,
    levels: int,
) -> NDArray[np.float64]:
    """Return rows between nodes and levels, (N, rows)."""
    next_node = levels if nodes > 1 else 0
    shorter = flat[at] * (1 - up) + flat[at + 1] * up
    longer = flat[at + next_node] * (1 - up) + flat[at + next_node + 1] * up
    return shorter * (1 - over) + longer * over


class Stretch(NamedTuple):
    """A window in which decodes go on.

    Parameters
    ----------
    duration : [time]
        Of the window.
    batches : [iterations]
        Batches in it, while a request is there.
    rate : [requests/time]
        At which requests arrive.
    closure
        What the node does.
    """

    duration: float
    batches: float
    rate: float
    closure: WorkClosure


def steady(closure: WorkClosure, highest: float) -> DecodeTimes:
    """Return the times of decodes that start with at most ``highest`` work, where nothing changes.

    Decode times are smooth in the work at their start: they are solved on levels of their own.
    """
    work, uniform = grid_of(closure, highest, resolve=False, **START_GRID)
    table = decode_moments(*_posed(closure, levels_of(closure, work, uniform), closure.rate))
    return DecodeTimes(np.zeros(1), work, _per_batch(table, closure)[None])


def changing(
    stretches: Iterable[Stretch], base: WorkClosure, stay: float, full: float, highest: float
) -> DecodeTimes:
    """Return the times of decodes that may start in any stretch of a sequence.

    After the last one nothing changes any more.

    Parameters
    ----------
    stretches
        One after the other.
    base
        Closure that levels are made for.
    stay : [time]
        How long decodes last at most, about.
    full : [requests/time]
        Capacity.
    highest
        As of :func:`steady`.
    """
    work, uniform = grid_of(base, highest, resolve=False, **START_GRID)
    known: dict[int, Levels] = {}
    later, tables = None, []
    stretches = list(_towards_changes(list(stretches), stay, SUDDEN * full))
    for each in reversed(stretches):
        if id(each.closure) not in known:
            known[id(each.closure)] = levels_of(each.closure, work, uniform)
        posed = _posed(each.closure, known[id(each.closure)], each.rate)
        if later is None:
            later = decode_moments(*posed)
            tables.append(_per_batch(later, each.closure))
        later = decode_moments_before(*posed, each.batches, later)
        tables.append(_per_batch(later, each.closure))
    when = np.cumsum([0.0, *(each.duration for each in stretches)])
    return DecodeTimes(when, work, np.ascontiguousarray(np.stack(tables[::-1])))


def _towards_changes(stretches: Sequence[Stretch], stay: float, sudden: float) -> Iterator[Stretch]:
    """Yield stretches that are cut where decodes begin to see that the rate changes at the end."""
    for each, after in zip_longest(stretches, stretches[1:]):
        left = each.duration
        if after is not None and abs(after.rate - each.rate) > sudden:
            for before in stay * BEFORE:
                if 0.0 < before < left * (1 - 1e-9):
                    yield _part(each, left - before)
                    left = before
        yield _part(each, left)


def _part(stretch: Stretch, duration: float) -> Stretch:
    return stretch._replace(
        duration=duration, batches=stretch.batches * duration / max(stretch.duration, 1e-300)
    )


def _posed(closure: WorkClosure, levels: Levels, rate: float) -> tuple[Any, ...]:
    """Return what the backward equation takes, at an arrival ``rate``."""
    batches = closure.batches
    band, below = generator(levels, closure, rate)
    # a node that is idle but for the request itself: its own tokens come on top
    idle = float(batches.duration(0.0, 0.0))
    tokens = levels.batch.mean(axis=1)
    requests = tokens * requests_per_token(closure, levels.work, tokens)
    more = batches.duration(tokens, requests + 1.0) - batches.duration(tokens, requests)
    return (
        band, below, levels.batch_time, idle, levels.full, np.asarray(more, float),
        closure.work.lengths.nodes,
    )  # fmt: skip


def _per_batch(moments: NDArray[np.float64], closure: WorkClosure) -> NDArray[np.float64]:
    nodes = closure.work.lengths.nodes
    return np.ascontiguousarray(np.moveaxis(moments / nodes[:, None], 0, -1))
