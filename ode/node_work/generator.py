"""The levels of work in system and the rates at which it moves between them.

Below the levels where arrivals may still find room, V moves on a uniform grid: down by a linear
upwind scheme, up by the binned law of w, each jump spread over three levels so that mean and
variance stay exact. Where requests are so many that a level is wider than half a jump, up and down
are much faster than what they leave: as schemes of their own their errors would not cancel. There V
moves by what is left, drift and diffusion. Far above, the batch is always full and only mean and
variance matter: there the levels widen and a level exchanges with its neighbours alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fluid import WorkClosure
from serving.compilation import compiled

STEPS_PER_SET = 40
"""Levels from an empty node to the work of a saturated set."""

STEPS_PER_JUMP, MOST_STEPS = 2.0, 300
"""Levels per jump (of token-iterations, by the request they belong to) where that is finer, and per
saturated set at most."""

NEAR = 3.5
"""Saturated sets up to which levels are uniform."""

WIDENING = 1.10
"""Ratio of successive widths of the levels beyond."""

BATCH_POINTS = 8
"""Quantiles of the batch tokens at a level."""

IDLE, BUSY = 0, slice(1, None)
"""Indices of the idle node, and of all that is above it, among the levels."""

_QUANTILES = np.asarray(ndtri((np.arange(BATCH_POINTS) + 0.5) / BATCH_POINTS))


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What a node does at each level of work in system.

    Parameters
    ----------
    work : shape (K + 1,) [token-iterations]
        V: an idle node first, then the levels.
    uniform
        How many of the levels are on the uniform grid.
    batch : shape (K + 1, T) [tokens]
        Equally likely batch tokens at each level.
    batch_time : shape (K + 1,) [time]
        Mean duration of a batch.
    service : shape (K + 1,) [token-iterations/time]
        Rate at which V falls.
    full : shape (K + 1,)
        Probability that an arrival has to wait for room.
    demand, pending, spread : shape (K + 1,) [tokens]
        Mean of what the requests in the system would execute, how much of it waits for the
        batch under way to end, and its standard deviation given V.
    """

    work: NDArray[np.float64]
    uniform: int
    batch: NDArray[np.float64]
    batch_time: NDArray[np.float64]
    service: NDArray[np.float64]
    full: NDArray[np.float64]
    demand: NDArray[np.float64]
    pending: NDArray[np.float64]
    spread: NDArray[np.float64]

    def lowest(self, top: int) -> Levels:
        """Return so many of the levels."""
        return Levels(
            self.work[:top], min(self.uniform, top - 1), self.batch[:top], self.batch_time[:top],
            self.service[:top], self.full[:top], self.demand[:top], self.pending[:top],
            self.spread[:top],
        )  # fmt: skip

    @property
    def step(self) -> float:
        """Width of the uniform levels [token-iterations]."""
        return float(self.work[2] - self.work[1])


def grid_of(
    closure: WorkClosure,
    highest: float,
    *,
    steps: int = STEPS_PER_SET,
    near: float = NEAR,
    widening: float = WIDENING,
    resolve: bool = True,
) -> tuple[NDArray[np.float64], int]:
    """Return levels of V up to ``highest``, idle first, and how many of them are uniform.

    Parameters
    ----------
    highest : [token-iterations]
        Work that hardly ever is exceeded. Where it is less than that of ``near`` saturated sets,
        these levels lie closer together, so that there are as many.
    steps, near
        Levels per saturated set, and so many sets up to which they are uniform.
    widening
        Ratio of the widths beyond.
    resolve
        Whether levels are to resolve jumps, up to :data:`MOST_STEPS`.
    """
    unit = min(closure.set_mean, highest / near)
    step = unit / steps
    if resolve:
        step = min(step, max(_resolved(closure), unit / MOST_STEPS))
    uniform = round(near * unit / step)
    levels = (np.arange(uniform) + 0.5) * step
    drift = abs(closure.rate * closure.work.mean - closure.fastest)
    widest = max(step, 0.7 * closure.rate * closure.work.second / max(drift, 1e-300))
    far, width, top = [], step, levels[-1]
    while top < highest - step:
        width = min(width * widening, widest)
        top += width
        far.append(top)
    return np.concatenate([[0.0], levels, far]), uniform


def levels_of(closure: WorkClosure, work: NDArray[np.float64], uniform: int) -> Levels:
    """Return what the node does at the levels ``work``."""
    full = closure.saturation
    demand = _beyond(work, closure.level, closure.demand)
    executing = _beyond(work, closure.level, closure.executing)
    demand[IDLE], executing[IDLE] = 0.0, 0.0
    spread = np.maximum(np.interp(work, closure.level, closure.spread), 1e-9 * full.batch_tokens)
    batch = executing[:, None] + spread[:, None] * _QUANTILES
    batch = np.minimum(np.maximum(batch, 0.2 * executing[:, None]), full.batch_tokens)
    requests = batch * requests_per_token(closure, work, batch)
    time, rate = closure.batches.passing(batch, requests)
    service = rate.mean(axis=1)
    service[IDLE], batch[IDLE] = 0.0, 0.0
    waits = ndtr((demand - full.batch_tokens) / spread)
    waits[IDLE] = 0.0
    duration = time.mean(axis=1)
    return Levels(
        work, uniform, batch, duration, service, np.maximum.accumulate(waits), demand,
        demand - executing, spread,
    )  # fmt: skip


def generator(levels: Levels, closure: WorkClosure, rate: float) -> tuple[NDArray[np.float64], int]:
    """Return the generator of V at an arrival ``rate``, by rows (to), and its entries below.

    ``d/dt law = G law`` for the law of V at the levels, the idle node first.
    """
    jumps, work = closure.bursts, closure.work
    # crowds come less often than requests; of regular arrivals a part is as good as steady
    often = rate / (1.0 + max(0.0, closure.crowd))
    share = min(1.0, closure.variance / work.second)
    jumping = levels.uniform if levels.step <= _resolved(closure) * (1 + 1e-9) else 0
    reach = _reach(levels.work, jumping, float(jumps.work.max()))
    band = _generator(
        levels.work, levels.uniform, jumping, levels.service, jumps.work, jumps.probability,
        rate, often, share, work.mean, closure.variance, closure.fastest, reach,
    )  # fmt: skip
    return band, reach


def requests_per_token(
    closure: WorkClosure, work: NDArray[np.float64], batch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the requests in a batch over its tokens, at the levels ``work`` of its rows."""
    most = closure.saturation.batch_tokens
    per_token = np.interp(work, closure.level, closure.per_token)
    by_row = per_token.reshape(-1, *(1,) * (batch.ndim - 1))
    return np.where(batch < most, by_row, closure.set_size / most)


def _resolved(closure: WorkClosure) -> float:
    """Return the widest level that resolves jumps [token-iterations]."""
    return closure.work.second / closure.work.mean / STEPS_PER_JUMP


def _beyond(
    x: NDArray[np.float64], grid: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate; beyond the grid in proportion to ``x``."""
    return np.interp(x, grid, values) * np.maximum(1.0, x / grid[-1])


def _reach(work: NDArray[np.float64], jumping: int, largest: float) -> int:
    """Return how many levels a jump can rise at most, two for its spreading included."""
    start = work[: jumping + 1]
    return int((np.searchsorted(work, start + largest) - np.arange(start.size)).max()) + 2


@compiled
def _generator(
    work,
    uniform,
    jumping,
    service,
    sizes,
    share,
    rate,
    often,
    by_jumps,
    mean,
    second,
    fastest,
    below,
):
    n = work.size
    above = 2
    band = np.zeros((n, below + above + 1))
    # jumps from the idle node and, where levels resolve them, from the uniform levels
    step = work[2] - work[1]
    for b in range(sizes.size):
        risen = int(np.floor(sizes[b] / step + 0.5))  # the level nearest to where a jump ends
        alike = 0  # from uniform levels below this one all jumps end alike
        if jumping > 0 and risen > 0:
            alike = max(0, min(jumping, uniform - 1 - risen))
            off = sizes[b] / step - risen
            y0, y2 = 0.5 * off * (off - 1.0), 0.5 * off * (off + 1.0)
            flow = often * share[b] * by_jumps
            at = below - risen
            for source in range(1, alike + 1):
                band[source + risen - 1, at + 1] += flow * y0
                band[source + risen, at] += flow * (1.0 - y0 - y2)
                band[source + risen + 1, at - 1] += flow * y2
                band[source, below] -= flow
        for left in range(jumping + 1 - alike):
            source = left + alike if left > 0 else 0
            flow = often * share[b] * (by_jumps if source > 0 else 1.0)
            target = work[source] + sizes[b]
            k = np.searchsorted(work, target)
            if k >= n:
                _move(band, below, source, n - 1, flow)
            elif source > 0 and k > 1 and k + 1 < n:
                middle = k - 1 if target - work[k - 1] < work[k] - target else k
                x0, x1, x2 = work[middle - 1], work[middle], work[middle + 1]
                if middle - 1 == 0:
                    middle, x0, x1, x2 = 2, work[1], work[2], work[3]
                y0 = (target - x1) * (target - x2) / ((x0 - x1) * (x0 - x2))
                y1 = (target - x0) * (target - x2) / ((x1 - x0) * (x1 - x2))
                _move(band, below, source, middle - 1, flow * y0)
                _move(band, below, source, middle, flow * y1)
                _move(band, below, source, middle + 1, flow * (1.0 - y0 - y1))
            elif k <= 1:
                _move(band, below, source, 1, flow)
            else:
                y = (target - work[k - 1]) / (work[k] - work[k - 1])
                _move(band, below, source, k - 1, flow * (1.0 - y))
                _move(band, below, source, k, flow * y)
    # the rest on the uniform levels, through the faces between them
    gain = rate * mean * (1.0 - by_jumps if jumping > 0 else 1.0)
    exchange = 0.5 * rate * second / step**2 if jumping == 0 else 0.0
    for k in range(1, uniform + 1):
        net = gain - 0.5 * (service[k - 1] + service[k]) if k > 1 else -service[1]
        if net < 0.0:
            _carry(band, below, k, k - 1, k + 1, -net / step, k < uniform)
        else:
            _carry(band, below, k - 1, k, k - 2, net / step, k > 2)
        if k > 1:
            _move(band, below, k - 1, k, exchange)
            _move(band, below, k, k - 1, exchange)
    if uniform + 1 < n:
        _move(
            band, below, uniform, uniform + 1, exchange * step / (work[uniform + 1] - work[uniform])
        )
    # far levels: mean and variance
    drift, variance = rate * mean - fastest, rate * second
    for k in range(uniform + 1, n):
        down = work[k] - work[k - 1]
        up = work[k + 1] - work[k] if k + 1 < n else down
        rise = (variance + drift * down) / (up * (up + down))
        fall = (variance - drift * up) / (down * (up + down))
        if rise < 0.0:
            rise, fall = 0.0, -drift / down
        if fall < 0.0:
            rise, fall = drift / up, 0.0
        if k + 1 < n:
            _move(band, below, k, k + 1, rise)
        _move(band, below, k, k - 1, fall)
    return band


@compiled
def _move(band, below, source, target, flow):
    band[target, below + source - target] += flow
    band[source, below] -= flow


@compiled
def _carry(band, below, source, target, behind, speed, extrapolate):
    """Move by the value at the face to ``target``, extrapolated from ``source`` and ``behind``.

    Summed over the faces that it has a part in, each level drifts at ``speed``; at the ends too,
    where nothing is behind.
    """
    _move(band, below, source, target, 1.5 * speed)
    if extrapolate:
        band[target, below + behind - target] -= 0.5 * speed
        band[source, below + behind - source] += 0.5 * speed
