"""From the work in system that an arrival meets to its latencies.

An arrival that meets V waits for room with probability P(X > C | V); it then starts when V has
come down to R, the work of a saturated set, and its first token comes one batch later. Otherwise
it waits for the batch under way to end. From its start it needs D batches, whose mean and
variance the backward equation gives, with its own tokens on top where there is room.

The samples are a quasi-random draw of (R or X, place in the batch, class, decode time) at each
level, more of them where the flow is, and weighted so that rare levels are not left out. The
classes (p, D) of all samples together are spread evenly over the mix by D, long ones drawn more
often than they come: so the percentiles of the end-to-end latency follow those of D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fluid import WorkClosure
from ode.node_work.backward import MEAN, MORE, ROOM, VARIANCE
from ode.node_work.coming import Always, Coming
from ode.node_work.decode_times import DecodeTimes, steady
from ode.node_work.generator import BUSY, IDLE, Levels, requests_per_token
from ode.node_work.presence import Arrivals
from serving import DecodeNode, LatencySamples

HARDLY = 1e-9
"""Share of the arrivals that may meet more work than the levels at which decoding starts reach."""

_PHI = 1.1673039782614187
"""Root of x^5 = x + 1: its powers make four sequences that fill a cube evenly together."""

_STEPS = _PHI ** -np.arange(1.0, 5.0)

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
    decode
        How long decodes take.
    coming
        When its arrivals come.
    """

    closure: WorkClosure
    levels: Levels
    decode: DecodeTimes
    coming: Coming


def node_of(closure: WorkClosure, levels: Levels, flow: NDArray[np.float64]) -> Node:
    """Return what latencies depend on in equilibrium, where ``flow`` (K + 1,) meets the levels."""
    decode = steady(closure, highest_start(closure, levels.work, flow))
    return Node(closure, levels, decode, Always(closure.rate))


def highest_start(
    closure: WorkClosure, work: NDArray[np.float64], flow: NDArray[np.float64]
) -> float:
    """Return the work in system that starts, and what follows them, hardly ever exceed."""
    if not closure.reach < work[-1]:
        return float(work[-1])
    beyond = np.cumsum(flow[::-1])[::-1]
    met = work[np.flatnonzero(beyond > HARDLY * beyond[0])]
    return max(closure.reach, float(met.max(initial=0.0)))


def met_by_arrivals(
    closure: WorkClosure, work: NDArray[np.float64], law: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the law of V that arrivals meet, from the law of V at any time, shape (K + 1,).

    They are the same for Poisson arrivals. In a crowd an arrival meets those who came just before
    it as well: none with the chance of being the first, or else as much work as a crowd brings.
    Regular arrivals keep a distance: an arrival meets a part of a request less.
    """
    if closure.crowd == 0:
        return law
    if closure.crowd < 0:
        return _moved(law, work, closure.crowd * closure.work.mean)
    first = 1.0 / (1.0 + closure.crowd)
    met = first * law
    for size, share in zip(closure.bursts.work, closure.bursts.probability, strict=True):
        met += (1.0 - first) * share * _moved(law, work, size)
    return met


def _moved(law: NDArray[np.float64], work: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """Return a law of V with ``by`` [token-iterations] more work; a busy node stays busy."""
    at = np.interp(work + by, work, np.arange(work.size))
    at[BUSY] = np.maximum(at[BUSY], 1.0)
    if by < 0:
        at[IDLE] = 0.0
    lower = np.minimum(at.astype(np.intp), work.size - 2)
    below = np.bincount(lower, law * (lower + 1 - at), work.size)
    above = np.bincount(lower + 1, law * (at - lower), work.size)
    return np.asarray(below + above, float)


def samples_of(node: Node, instance: DecodeNode, flow: NDArray[np.float64], count: int) -> Arrivals:
    """Return about ``count`` weighted arrivals of a flow, with their latencies.

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
    law, full, lengths = instance.batch_time, closure.saturation, closure.work.lengths
    k, weight, u, place, pick, chance = draw(flow, levels.full, count)
    which = lengths.at_rank(even_ranks(pick, weight))
    weight = weight * lengths.weight[which]
    decode, tokens = lengths.decode[which], lengths.prefill[which] + 1

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
    held = set_work(closure, levels.work[k], u / np.maximum(waits, 1e-300))
    no_room = (u < waits) & (held < levels.work[k])
    wait = np.where(no_room, (levels.work[k] - held) / closure.fastest, rest)
    first = np.where(no_room, closure.set_time, first)

    # what is in the system when it starts, and how long D batches then take
    when = node.coming.moments(k)
    arrived = node.coming.arrived(when, wait) * closure.work.mean
    start = np.where(no_room, held + arrived, levels.work[k])
    place_of = lengths.place(decode)
    times = node.decode.at(place_of, start, when + wait)
    own = closure.batches.per_token * (tokens + 0.5 * (decode - 1)) * times[ROOM] + times[MORE]
    mean = decode * (times[MEAN] + own)
    spread = closure.slope * np.interp(start, levels.work, levels.spread)
    open_share = np.clip(times[ROOM], 0.0, 1.0)
    lasting = np.interp(
        place_of, np.arange(lengths.nodes.size), lengths.persistence / lengths.nodes
    )
    variance = decode * (times[VARIANCE] + spread**2 * open_share * lasting)
    service = np.maximum(gamma(mean, variance, ndtri(chance)), first)
    more = np.maximum(decode - 1, 1e-9)
    floor = first + (decode - 1) * float(law.duration(0.0, 0.0))
    service = np.where(decode > 1, np.maximum(service, floor), first)
    samples = LatencySamples(
        queue_delay=_admission(node, instance, wait, rest, no_room),
        ttft=wait + first,
        tpot=np.where(decode > 1, (service - first) / more, np.nan),
        e2el=wait + service,
        weight=weight,
    )
    return Arrivals(when, when + wait, decode, samples)


class _Draw(NamedTuple):
    """What chance decides about each sample, by uniform numbers in [0, 1].

    Parameters
    ----------
    level, weight : shape (N,) [1, requests]
        Level that the arrival meets, and how many arrivals the sample stands for.
    even : shape (N,)
        Chance of R or X. It must be covered evenly at every level by itself.
    place, length, service : shape (N,)
        Place in the batch under way, and chance of the decode length and of the decode time.
    """

    level: NDArray[np.intp]
    weight: NDArray[np.float64]
    even: NDArray[np.float64]
    place: NDArray[np.float64]
    length: NDArray[np.float64]
    service: NDArray[np.float64]


def draw(flow: NDArray[np.float64], waits: NDArray[np.float64], count: int) -> _Draw:
    """Return about ``count`` samples, more of them where the flow is.

    Those that wait for room and those that do not are drawn apart, so that the share of the former,
    which makes the tail of the TTFT, is exact.
    """
    total, flow = flow.sum(), np.maximum(flow, 0.0)  # schemes of second order overshoot a little
    flow *= total / max(float(flow.sum()), 1e-300)
    cells = np.concatenate([flow * waits, flow * (1.0 - waits)])
    cells = np.where(cells > 1e-9 * total, cells, 0.0)
    part = np.sqrt(cells)
    each = np.ceil(count * part / part.sum()).astype(int)
    each = np.where(cells > 0, np.maximum(each, LEAST_PER_LEVEL), 0)
    cell = np.repeat(np.arange(cells.size), each)
    weight = (cells / np.maximum(each, 1))[cell]
    uniform = 0.5 + np.arange(1, cell.size + 1) * _STEPS[:, None]
    uniform -= np.floor(uniform)
    _, place, length, service = uniform
    first = np.repeat(np.cumsum(each) - each, each)
    lower = np.concatenate([np.zeros(flow.size), waits])[cell]
    width = np.concatenate([waits, 1.0 - waits])[cell]
    even = lower + width * (np.arange(cell.size) - first + 0.5) / each[cell]
    return _Draw(cell % flow.size, weight, even, place, length, service)


def even_ranks(chance: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks in the order of ``chance`` that cover [0, 1] evenly by ``weight``."""
    order = np.argsort(chance)
    covered = np.cumsum(weight[order])
    rank = np.empty(weight.size)
    rank[order] = (covered - 0.5 * weight[order]) / covered[-1]
    return rank


def set_work(
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


def gamma(
    mean: NDArray[np.float64], variance: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return quantiles of gamma laws (Wilson and Hilferty)."""
    ninth = variance / np.maximum(9 * mean**2, 1e-300)
    return mean * np.maximum(1 - ninth + np.sqrt(ninth) * normal, 0.0) ** 3


def work_ahead(
    closure: WorkClosure, work: NDArray[np.float64], more: float = 0.0
) -> NDArray[np.float64]:
    """Return E[(V - R - more)^+ | R < V] at each level [token-iterations]."""
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    held = set_work(closure, work[:, None], share[None, :])
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
