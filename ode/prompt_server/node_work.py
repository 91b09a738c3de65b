"""One server at its size, by the work in its system: what the method asks of a server.

The closure of :mod:`fluid.prompt_server.node_work` says how the work in system falls and when an
arrival waits for room. Here an arrival's latencies follow from the work that it meets: the wait for
room, the steps to its first token, and the decode steps from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fluid import WorkClosure
from fluid.prompt_server import capacity, life, requests_that_fit, saturation, work_closure
from fluid.prompt_server.node_work import ServerBatches
from fluid.prompt_server.saturation import TOKENS, ServerSaturation
from ode.node_work.backward import MEAN, MORE, ROOM, VARIANCE
from ode.node_work.generator import Levels, requests_per_token
from ode.node_work.latencies import Node, draw, even_ranks, gamma, set_work
from ode.node_work.presence import Arrivals
from ode.prompt_server.first_tokens import AT_ONCE, first_tokens, gaps_of
from ode.prompt_server.labels import work_labels
from serving import LatencySamples, RequestMix
from serving.kinds.prompt_server import PromptServer

QUANTILES = 1024
"""Prompts that stand for all where those of others are drawn."""

IDLE, WITH_ROOM, WAITS = range(3)
"""What an arrival meets, see :func:`first_tokens`."""

LEAST_ROOM = 0.05
"""Of the KV of a full server, that even the largest prompt is taken to leave to others."""

CLOSEST = 0.95
"""Share of the time that prompts take, up to which they scatter the times of decodes."""

SEED = 1


@dataclass(frozen=True, eq=False)
class ServerModel:
    """A server and who arrives at it, see :class:`ode.node_work.model.NodeModel`.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    """

    mix: RequestMix
    instance: PromptServer

    @cached_property
    def capacity(self) -> float:
        """Arrival rate [requests/time] that the server just keeps up with."""
        return capacity(self.mix, self.instance)

    @cached_property
    def stay(self) -> float:
        """How long a request runs on a saturated server [time]."""
        each = life(self.mix, self.instance)
        return each.stay * saturation(self.mix, self.instance).batch_time

    @cached_property
    def size(self) -> float:
        """Requests that fit."""
        return requests_that_fit(self.mix, self.instance)

    @cached_property
    def batch(self) -> float:
        """What a step holds at most of the limit that binds [seats or tokens of KV]."""
        return self.closure(self.capacity, 1.0).saturation.batch_tokens

    @property
    def computes_prompts(self) -> bool:
        """Whether arrivals make the batches longer that they come in."""
        return True

    def closure(
        self,
        rate: float,
        dispersion: float,
        oldest: float = math.inf,
        arriving: float | None = None,
    ) -> WorkClosure:
        """Return the closure at an arrival ``rate`` [requests/time], see :func:`work_closure`."""
        return work_closure(
            self.mix,
            self.instance,
            rate,
            dispersion,
            oldest if oldest < math.inf else None,
            arriving,
        )

    def labels(
        self, rate: float, dispersion: float, *, given_times: bool = False
    ) -> tuple[str, ...]:
        """Return the caveats of an answer."""
        return work_labels(self.mix, self.instance, rate, dispersion, given_times=given_times)

    def arrivals(self, node: Node, flow: NDArray[np.float64], count: int) -> Arrivals:
        """Return about ``count`` weighted arrivals of a ``flow`` (K + 1,) by level met."""
        return _samples(node, self.mix, self.instance, flow, count)

    def beyond_batch(self, closure: WorkClosure) -> float:
        """Return the work of those who are let in beyond a full step: nobody is."""
        return 0.0


@lru_cache(maxsize=16)
def _quantiles(mix: RequestMix, server: PromptServer) -> NDArray[np.float64]:
    """Return prompts that come equally often, shape (4, Q)."""
    order = np.argsort(mix.prefill, kind="stable")
    share = np.cumsum(mix.probability[order])
    at = np.searchsorted(share / share[-1], (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return _prompts(mix, server, mix.prefill[order][np.minimum(at, mix.prefill.size - 1)])


def _prompts(mix: RequestMix, server: PromptServer, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return tokens computed, pairs attended, tokens known and KV of prompts, shape (4, N)."""
    prompt = life(mix, server).prompt
    own = prompt.tokens / max(prompt.context, 1e-300) * p
    known = p - own
    return np.ascontiguousarray(np.stack([own, own * (known + (own + 1) / 2), known, p]))


def waits_for_steps(closure: WorkClosure) -> bool:
    """Return whether prompts wait for the tokens of steps, and nobody for a seat or for KV."""
    full = closure.saturation
    assert isinstance(full, ServerSaturation)
    return full.binds == TOKENS


class _Met(NamedTuple):
    """What arrivals meet; shape (N,) each.

    Parameters
    ----------
    state
        ``IDLE``, ``WITH_ROOM`` or ``WAITS``.
    held, requests : [seats or tokens of KV], [requests]
        In the step under way, or in a full one for who waits.
    wait : [time]
        For room.
    came, when : [time]
        Moments at which the request arrives and starts.
    start : [work]
        In the system then.
    """

    state: NDArray[np.int64]
    held: NDArray[np.float64]
    requests: NDArray[np.float64]
    wait: NDArray[np.float64]
    came: NDArray[np.float64]
    when: NDArray[np.float64]
    start: NDArray[np.float64]


def _chance(
    levels: Levels, level: NDArray[np.intp], room: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the probability that those who are there hold more than ``room``."""
    beyond = (levels.demand[level] - room) / levels.spread[level]
    return np.where(level > 0, ndtr(beyond), 0.0)


def _met(
    node: Node,
    server: PromptServer,
    level: NDArray[np.intp],
    even: NDArray[np.float64],
    prefill: NDArray[np.float64],
) -> _Met:
    levels, closure = node.levels, node.closure
    full, work = closure.saturation, levels.work[level]
    batches = closure.batches
    assert isinstance(batches, ServerBatches)
    waits, scale = levels.full[level], np.ones(level.size)
    if waits_for_steps(closure):
        waits = np.zeros(level.size)
    elif batches.is_seats:
        waits = _chance(levels, level, full.batch_tokens - 0.5)  # requests are whole
    else:  # a large prompt needs more room than others
        room = server.kv_tokens - server.reserve
        room -= np.ceil(prefill / server.block_size) * server.block_size
        room = np.maximum(room, LEAST_ROOM * full.batch_tokens)
        scale = room / full.batch_tokens
        waits = _chance(levels, level, room)
    normal = ndtri(np.clip(1 - even, 1e-12, 1 - 1e-12))
    executing = levels.demand[level] - levels.pending[level]
    held = np.maximum(executing + levels.spread[level] * normal, 0.2 * executing)
    held = np.minimum(held, full.batch_tokens)
    left = scale * set_work(closure, work / scale, even / np.maximum(waits, 1e-300))
    no_room = (even < waits) & (left < work)
    requests = held * requests_per_token(closure, work, held)
    requests = np.minimum(requests, server.most_running)
    held = np.where(no_room, full.batch_tokens, held)
    requests = np.where(no_room, closure.set_size, requests)
    # one that needs more room than others waits while the server is not full, and slower
    falls = np.minimum(np.interp(0.5 * (left + work), levels.work, levels.service), closure.fastest)
    wait = np.where(no_room, (work - left) / np.maximum(falls, 1e-300), 0.0)
    when = node.coming.moments(level)
    arrived = node.coming.arrived(when, wait) * closure.work.mean
    state = np.where(no_room, WAITS, np.where(level > 0, WITH_ROOM, IDLE))
    start = np.where(no_room, left + arrived, work)
    return _Met(state, held, requests, wait, when, when + wait, start)


def _samples(
    node: Node, mix: RequestMix, server: PromptServer, flow: NDArray[np.float64], count: int
) -> Arrivals:
    closure, lengths = node.closure, node.closure.work.lengths
    batches = closure.batches
    assert isinstance(batches, ServerBatches)
    level, weight, even, place, pick, chance = draw(flow, node.levels.full, count)
    which = lengths.at_rank(even_ranks(pick, weight))
    weight = weight * lengths.weight[which]
    decode, prefill = lengths.decode[which], lengths.prefill[which]
    met = _met(node, server, level, even, prefill)
    decodes, context = batches.decoded(met.held, met.requests)
    usual, _ = batches.passing(met.held, met.requests)
    out = np.empty((3, level.size))
    law = server.batch_time.vector()
    together = max(1.0, batches.arriving * float(usual.max()) / AT_ONCE)
    first_tokens(
        law.ctypes.data, batches.late, server.is_ahead, float(server.step_tokens), batches.arriving,
        together, gaps_of(closure.dispersion, together), batches.saturation.entering,
        _quantiles(mix, server), decodes, context, usual, met.state, place,
        _prompts(mix, server, prefill), decode - 1.0, SEED, out,
    )  # fmt: skip
    begin, first, longer = out
    prompts = min(batches.arriving * batches.prompt, CLOSEST)
    brought = prompts * _passed_on(prompts, decode - 1.0) * batches.prompt_time(prefill)
    longer = np.where(met.state == WITH_ROOM, longer, brought)
    service = _decode_time(node, batches, met, prefill, decode, longer, ndtri(chance))
    samples = LatencySamples(
        queue_delay=met.wait + begin,
        ttft=met.wait + first,
        tpot=np.where(decode > 1, service / np.maximum(decode - 1, 1.0), np.nan),
        e2el=met.wait + first + service,
        weight=weight,
    )
    return Arrivals(met.came, met.came + samples.ttft, decode - 1.0, samples)


def _decode_time(
    node: Node,
    batches: ServerBatches,
    met: _Met,
    prefill: NDArray[np.float64],
    decode: NDArray[np.float64],
    longer: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the time [time] from the first token to the last.

    The steps of others' prompts scatter it; who came until the first token makes the first of them
    ``longer`` in all [time].
    """
    closure, levels, lengths = node.closure, node.levels, node.closure.work.lengths
    steps, start = decode - 1, met.start
    place = lengths.place(np.maximum(steps, 1.0))
    times = node.decode.at(place, start, met.when)
    tokens = prefill + 0.5 * decode - (batches.reads if batches.is_seats else 0.0)
    own = batches.per_token * tokens * times[ROOM] + times[MORE]
    prompts = min(batches.arriving * batches.prompt, CLOSEST)
    mean = steps * (times[MEAN] + own) + longer
    spread = closure.slope * np.interp(start, levels.work, levels.spread)
    lasting = np.interp(place, np.arange(lengths.nodes.size), lengths.persistence / lengths.nodes)
    step = np.interp(start, levels.work, levels.batch_time)
    once = _passed_on_by_each(prompts, steps)
    scatter = batches.arriving * step * batches.square * once**2
    variance = times[VARIANCE] + spread**2 * np.clip(times[ROOM], 0.0, 1.0) * lasting + scatter
    least = steps * float(batches.duration(0.0, 0.0))
    beyond = gamma(np.maximum(mean - least, 1e-300), steps * variance, normal)
    return np.where(steps > 0, least + beyond, 0.0)


def _passed_on(prompts: float, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much so many steps are longer together if the first is longer by 1.

    In the time that a step is longer more prompts come, which make the next one longer: ``prompts``
    is how much, the share of the time that prompts take.
    """
    return (1.0 - prompts**steps) / (1.0 - prompts)


def _passed_on_by_each(prompts: float, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of what each of the steps passes on to those after it, itself included."""
    whole = _passed_on(prompts, steps)
    return (1.0 - prompts * whole / np.maximum(steps, 1.0)) / (1.0 - prompts)
