"""From the work in system that an arrival meets to its latencies.

An arrival that meets V waits for room with probability P(X > C | V); it then starts when V has
come down to R, the work of a saturated set, and its first token comes one batch later. Otherwise
it waits for the batch under way to end. From its start it needs D batches, whose mean and
variance the backward equation gives, with its own tokens on top where there is room.

The samples are a quasi-random draw of (R or X, place in the batch, D, decode time) at each level,
more of them where the flow is, and weighted so that rare levels are not left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fluid import WorkClosure
from ode.node_work.backward import MEAN, ROOM, VARIANCE, decode_moments
from ode.node_work.generator import (
    Levels,
    generator,
    grid_of,
    levels_of,
    requests_per_token,
)
from serving import DecodeNode, LatencySamples

_PHI = 1.1673039782614187
"""Root of x^5 = x + 1: its powers make four sequences that fill a cube evenly together."""

_STEPS = _PHI ** -np.arange(1.0, 5.0)

START_GRID: dict[str, Any] = {"steps": 14, "near": 2.5, "widening": 1.3}
"""Resolution of the levels at which decoding may start."""

LEAST_PER_LEVEL = 2
"""Samples of a level that arrivals meet, at least."""

QUANTILES = 12
"""Quantiles of R over which the work ahead of an arrival is averaged."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """What latencies depend on at one arrival rate: closure, levels and decode times.

    Parameters
    ----------
    closure, levels
        What the node does given its work in system.
    start : shape (S,) [token-iterations]
        Work in system at which decoding may start.
    decode : shape (3, G, S)
        Time of D batches by group of decode length and start, at ``[MEAN, VARIANCE or ROOM]``
        (:mod:`ode.node_work.backward`).
    own : shape (G,) [time]
        What a request's own tokens add to each batch with room.
    """

    closure: WorkClosure
    levels: Levels
    start: NDArray[np.float64]
    decode: NDArray[np.float64]
    own: NDArray[np.float64]


def node_of(closure: WorkClosure, levels: Levels, instance: DecodeNode) -> Node:
    """Return what latencies depend on.

    Decode times are smooth in the work at their start: they are solved on levels of their own.
    """
    law, full, groups = instance.batch_time, closure.saturation, closure.work.groups
    size = full.batch_size / full.batch_tokens
    tokens, usual = groups.work / groups.decode, 0.5 * full.batch_tokens
    own = law.duration(usual + tokens, usual * size + 1) - law.duration(usual, usual * size)
    # a node that is idle but for the request itself: its own tokens come on top
    idle = float(law.duration(0.0, 0.0))
    grid = grid_of(closure, levels.work[-1], resolve=False, **START_GRID)
    starts = levels_of(closure, law, *grid)
    band, below = generator(starts, closure, closure.rate)
    decode = decode_moments(band, below, starts.batch_time, idle, starts.full, groups.decode)
    return Node(closure, levels, starts.work, decode, np.asarray(own, float))


def samples_of(
    node: Node, instance: DecodeNode, flow: NDArray[np.float64], count: int
) -> LatencySamples:
    """Return about ``count`` weighted latencies of a flow.

    Parameters
    ----------
    node
        What the latencies depend on.
    instance
        The node.
    flow : shape (K + 1,) [requests]
        Arrivals by the level of work in system that they meet.
    """
    levels, closure = node.levels, node.closure
    law, full, groups = instance.batch_time, closure.saturation, closure.work.groups
    k, weight, u, place, pick, chance = _draw(flow, count)
    group = np.searchsorted(np.cumsum(groups.share)[:-1], pick, side="right")
    decode, tokens = groups.decode[group], groups.prefill[group] + 1

    # with room: the rest of the batch under way, then one with the newcomers in it
    waits = levels.full[k]
    normal = ndtri(np.clip(1 - u, 1e-12, 1 - 1e-12))
    executing = levels.demand[k] - levels.pending[k]
    batch = np.maximum(executing + levels.spread[k] * normal, 0.2 * executing)
    batch = np.minimum(batch, full.batch_tokens)
    requests = batch * requests_per_token(closure, levels.work[k], batch)
    rest = place * law.duration(batch, requests) * (k > 0)
    filled = np.minimum(batch + levels.pending[k] + tokens, full.batch_tokens)
    size = full.batch_size / full.batch_tokens
    requests = np.maximum(requests + (filled - batch) * size, 1.0)
    first = np.asarray(law.duration(filled, requests), float)

    # without: until the work ahead is what a saturated set holds
    held = _set_work(closure, levels.work[k], u / np.maximum(waits, 1e-300))
    no_room = (u < waits) & (held < levels.work[k])
    wait = np.where(no_room, (levels.work[k] - held) / closure.fastest, rest)
    first = np.where(no_room, closure.set_time, first)

    # what is in the system when it starts, and how long D batches then take
    arrived = closure.rate * closure.work.mean * wait
    start = np.where(no_room, held + arrived, levels.work[k])
    at = np.interp(start, node.start, np.arange(node.start.size))
    times = _between(node.decode, group, at)
    room = times[ROOM]
    mean = times[MEAN] + node.own[group] * room
    spread = closure.slope * np.interp(start, levels.work, levels.spread)
    open_share = np.clip(room / decode, 0.0, 1.0)
    variance = times[VARIANCE] + spread**2 * open_share * closure.work.persistence[group]
    service = np.maximum(_gamma(mean, variance, ndtri(chance)), first)
    more = np.maximum(decode - 1, 1e-9)
    floor = first + (decode - 1) * float(law.duration(0.0, 0.0))
    service = np.where(decode > 1, np.maximum(service, floor), first)
    return LatencySamples(
        queue_delay=_admission(node, instance, wait, rest, no_room),
        ttft=wait + first,
        tpot=np.where(decode > 1, (service - first) / more, np.nan),
        e2el=wait + service,
        weight=weight,
    )


class _Draw(NamedTuple):
    """What chance decides about each sample, by uniform numbers in [0, 1].

    Parameters
    ----------
    level, weight : shape (N,) [1, requests]
        Level that the arrival meets, and how many arrivals the sample stands for.
    even : shape (N,)
        Chance of R or X. It must be covered evenly at every level by itself.
    place, group, service : shape (N,)
        Place in the batch under way, and chance of the decode length and of the decode time.
    """

    level: NDArray[np.intp]
    weight: NDArray[np.float64]
    even: NDArray[np.float64]
    place: NDArray[np.float64]
    group: NDArray[np.float64]
    service: NDArray[np.float64]


def _draw(flow: NDArray[np.float64], count: int) -> _Draw:
    """Return about ``count`` samples, more of them where the flow is."""
    total, flow = flow.sum(), np.maximum(flow, 0.0)  # schemes of second order overshoot a little
    flow *= total / max(float(flow.sum()), 1e-300)
    flow = np.where(flow > 1e-9 * flow.sum(), flow, 0.0)
    part = np.sqrt(flow)
    each = np.ceil(count * part / part.sum()).astype(int)
    each = np.where(flow > 0, np.maximum(each, LEAST_PER_LEVEL), 0)
    k = np.repeat(np.arange(flow.size), each)
    weight = (flow / np.maximum(each, 1))[k]
    uniform = 0.5 + np.arange(1, k.size + 1) * _STEPS[:, None]
    uniform -= np.floor(uniform)
    _, place, group, service = uniform
    first = np.repeat(np.cumsum(each) - each, each)
    even = (np.arange(k.size) - first + 0.5) / each[k]
    return _Draw(k, weight, even, place, group, service)


def _set_work(
    closure: WorkClosure, work: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return R at upper quantile ``share`` of its gamma law given R < ``work``.

    Wilson and Hilferty: the cube root of a gamma variable is very nearly normal.
    """
    shape = (closure.set_mean / max(closure.set_sd, 1e-9 * closure.set_mean)) ** 2
    shift, scale = 1 - 1 / (9 * shape), 1 / (3 * np.sqrt(shape))
    below = ndtr((np.cbrt(work / closure.set_mean) - shift) / scale)
    normal = ndtri(np.clip((1 - np.minimum(share, 1.0)) * below, 1e-300, 1 - 1e-12))
    return closure.set_mean * np.maximum(shift + scale * normal, 0.0) ** 3


def _gamma(
    mean: NDArray[np.float64], variance: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return quantiles of gamma laws (Wilson and Hilferty)."""
    ninth = variance / np.maximum(9 * mean**2, 1e-300)
    return mean * np.maximum(1 - ninth + np.sqrt(ninth) * normal, 0.0) ** 3


def _between(
    table: NDArray[np.float64], group: NDArray[np.intp], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each table's value for a group at a fractional level."""
    lower = np.minimum(at.astype(np.intp), table.shape[2] - 2)
    share = at - lower
    return table[:, group, lower] * (1 - share) + table[:, group, lower + 1] * share


def work_ahead(
    closure: WorkClosure, work: NDArray[np.float64], more: float = 0.0
) -> NDArray[np.float64]:
    """Return E[(V - R - more)^+ | R < V] at each level [token-iterations]."""
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    held = _set_work(closure, work[:, None], share[None, :])
    return np.maximum(work[:, None] - held - more, 0.0).mean(axis=1)


def beyond_batch(closure: WorkClosure, instance: DecodeNode) -> float:
    """Return the work of those whom memory takes in beyond a saturated batch.

    They are fresh: W per E[p + 1] tokens.
    """
    room = instance.admission_threshold * instance.M_total - closure.saturation.batch_tokens
    if instance.token_budget >= instance.M_total:
        return 0.0
    return max(0.0, room) * closure.work.mean / closure.work.fresh_tokens


def _admission(
    node: Node,
    instance: DecodeNode,
    wait: NDArray[np.float64],
    rest: NDArray[np.float64],
    no_room: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the time to admission: memory takes more than a batch where its budget is smaller."""
    more = beyond_batch(node.closure, instance)
    if more == 0.0:
        return wait
    ahead = wait - more / node.closure.fastest
    return np.where(no_room, np.minimum(wait, np.maximum(ahead, rest)), rest)
