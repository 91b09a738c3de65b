"""Capacity of a server that computes its own prompts, and which of its limits binds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fluid._capacity import BATCHES, Saturation
from fluid.prompt_server.life import Life, life
from fluid.prompt_server.lumps import relative_tokens, within
from fluid.prompt_server.recompute import recomputed_tokens
from fluid.prompt_server.whole_requests import WholeServer, whole_server
from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer

SEATS, TOKENS, KV_BLOCKS = "max_num_seqs", "max_num_batched_tokens", "KV blocks"
"""Names of the limits."""

FEW = 130.0
"""Requests that fit, below which a server that KV fills is marched in whole requests. Below a
hundred what preemptions compute again is wrong by up to 8 % of the throughput, beyond by some per
cent; and the march of a large server is slow, and long in settling."""

LEAST_LENGTHS = 512
"""Prompts, evenly by their probability, by which the time of one prompt is averaged at most."""


@dataclass(frozen=True, slots=True)
class ServerSaturation(Saturation):
    """A server that always has somebody waiting, averaged over steps.

    Parameters
    ----------
    entering : [requests/step]
        Requests that start, and end, in a step.
    binds
        Which limit it is at: ``max_num_seqs``, ``max_num_batched_tokens`` or ``KV blocks``.
    recomputed : [tokens/step]
        Tokens that preemptions make a step compute again, see :func:`recomputed_tokens`.
    """

    entering: float
    binds: str
    recomputed: float


def step_time(each: Life, server: PromptServer, entering: NDArray[np.float64] | float) -> NDArray:
    """Return the mean time [time] between two decode steps, so many requests entering in it.

    Parameters
    ----------
    each
        What a request takes.
    server
        Its law, and whether prompts have steps of their own.
    entering : [requests]
        Requests that start in a step.
    """
    law, x = server.batch_time, np.asarray(entering, float)
    prompt, late = each.prompt, 0.0 if server.is_ahead else server.gap
    decodes, read = x * each.decodes, x * (each.context - prompt.context)
    some = -np.expm1(-x)  # share of the steps that anybody starts in
    if not server.prompts_apart:
        if each.scatter is not None:  # a prompt longer than a step takes several
            left = np.maximum(server.step_tokens - decodes, 1.0)
            some = np.maximum(some, np.minimum(x * prompt.tokens / left, 1.0))
        mixed = prompt_step(server, each, decodes, read, (x, some))
        tau = some * mixed + (1 - some) * law.step_duration(decodes, read) + late
        if server.is_ahead:  # a decision that outlasts its step delays the next: two take tau + gap
            tau = np.maximum(tau, 0.5 * (tau + server.gap))
        return tau
    steps = np.maximum(some, x * prompt.tokens / server.step_tokens)
    alone = prompt_step(server, each, 0.0, 0.0, (x, steps))
    return law.step_duration(decodes, read) + late + steps * (alone + late)


def prompt_step(
    server: PromptServer,
    each: Life,
    decodes: NDArray[np.float64] | float,
    read: NDArray[np.float64] | float,
    starting: tuple[NDArray[np.float64], NDArray[np.float64]],
    more: float = 0.0,
) -> NDArray[np.float64]:
    """Return the mean time [time] of the steps that anybody starts in.

    Parameters
    ----------
    server
        Its law, and the tokens of a step.
    each
        What a prompt takes, and how the prompts of a step scatter.
    decodes, read : [tokens]
        Computed by those who decode, and the KV that they read.
    starting
        Requests that start in a step on average, and the share of the steps that anybody starts in.
    more : [tokens]
        Prompt tokens that every one of these steps computes besides.
    """
    prompt, law, (x, some) = each.prompt, server.batch_time, starting
    mean = x / np.maximum(some, 1e-300)
    if each.scatter is None:
        return law.step_duration(
            decodes, read + mean * prompt.context, mean * prompt.tokens + more,
            mean * prompt.attention, mean * prompt.known,
        )  # fmt: skip
    left = np.maximum(server.step_tokens - np.asarray(decodes, float) - more, 1.0)
    most = left / np.maximum(mean * prompt.tokens, 1e-300)
    scatter = within(relative_tokens(each.scatter, x), most[..., None])
    mean, decodes, read = (np.broadcast_to(of, most.shape) for of in (mean, decodes, read))
    size = mean[..., None] * scatter
    found = law.step_duration(
        decodes[..., None], read[..., None] + size * prompt.context, size * prompt.tokens + more,
        size * prompt.attention, size * prompt.known,
    )  # fmt: skip
    return found.mean(axis=-1)


def most_entering(mix: RequestMix, server: PromptServer) -> dict[str, float]:
    """Return how many requests may start in a step [requests] by each limit."""
    each = life(mix, server)
    room = server.kv_tokens - server.reserve
    waits = 0.5 * _square_of_held(mix, server) / each.prompt.held  # for the next prompt to fit
    kv = max(room - waits, min(room, each.held / each.stay))
    tokens = each.prompt.tokens + each.decodes
    if server.prompts_apart:  # nothing shares a step with the decodes
        tokens = each.decodes
    by_tokens = server.step_tokens / tokens if tokens > 0 else math.inf
    return {
        SEATS: server.most_running / each.stay,
        TOKENS: math.inf if server.prompts_apart else by_tokens,
        KV_BLOCKS: kv / each.held,
    }


def _square_of_held(mix: RequestMix, server: PromptServer) -> float:
    held = np.ceil(mix.prefill / server.block_size) * server.block_size
    return float(mix.probability @ held**2)


def _at(mix: RequestMix, server: PromptServer, entering: float, binds: str) -> ServerSaturation:
    each = life(mix, server)
    tau = float(step_time(each, server, entering))
    again = recomputed_tokens(mix, server, entering) if binds == KV_BLOCKS else 0.0
    tau += _time_of_more_prompt(each, server, entering, again)
    return ServerSaturation(
        batch_tokens=entering * (each.decodes + each.prompt.tokens) + again,
        batch_size=entering * each.stay,
        batch_time=tau,
        throughput=entering / tau if tau > 0 else math.inf,
        entering=entering,
        binds=binds,
        recomputed=again,
    )


def _time_of_more_prompt(each: Life, server: PromptServer, entering: float, more: float) -> float:
    """Return what ``more`` prompt tokens add to the mean time of a step [time]."""
    if more == 0:
        return 0.0
    decodes, read = entering * each.decodes, entering * each.context
    if server.prompts_apart:
        decodes = 0.0
    tokens, law = entering * each.prompt.tokens, server.batch_time
    if each.scatter is not None:
        starting = np.asarray(entering), -np.expm1(-np.asarray(entering))
        read = entering * (each.context - each.prompt.context)
        with_it, without = (
            prompt_step(server, each, decodes, read, starting, part) for part in (more, 0.0)
        )
        return float(with_it - without)
    return float(
        law.step_duration(decodes, read, tokens + more) - law.step_duration(decodes, read, tokens)
    )


@answers(MODEL)
@lru_cache(maxsize=256)
def saturation(mix: RequestMix, instance: PromptServer) -> ServerSaturation:
    """Return the saturated state of a server under ``mix``.

    In a step x requests start and x end, so x times what a request takes in all its steps is in the
    step: seats, tokens, blocks. The first limit that this meets gives x, the law the time of the
    step, and the throughput is x over it. Memory is full up to the room that the next prompt waits
    for. What preemptions compute again at this size makes the step longer; in a large system with a
    queue the ends of requests free what the others grow by, and nobody is preempted. A server of
    few requests that KV fills is marched (:func:`packs_whole`).
    """
    found = saturation_of_many(mix, instance)
    if not (found.binds == KV_BLOCKS and packs_whole(mix, instance)):
        return found
    return _packed(mix, instance, whole_server(mix, instance, requests_that_fit(mix, instance)))


@answers(MODEL)
@lru_cache(maxsize=256)
def saturation_of_many(mix: RequestMix, instance: PromptServer) -> ServerSaturation:
    """Return the closed form of :func:`saturation`, whatever the size of the server."""
    limits = most_entering(mix, instance)
    binds = min(limits, key=lambda name: limits[name])
    return _at(mix, instance, limits[binds], binds)


def packs_whole(mix: RequestMix, server: PromptServer) -> bool:
    """Return whether a server that KV fills is marched in whole requests."""
    if server.swaps or server.prompts_apart or any(server.hit_share):
        return False
    return requests_that_fit(mix, server) < FEW


def _packed(mix: RequestMix, server: PromptServer, of: WholeServer) -> ServerSaturation:
    return ServerSaturation(
        batch_tokens=of.batch_tokens,
        batch_size=of.entering * life(mix, server).stay,
        batch_time=of.batch_time,
        throughput=of.entering / of.batch_time if of.batch_time > 0 else math.inf,
        entering=of.entering,
        binds=KV_BLOCKS,
        recomputed=of.recomputed,
    )


@answers(MODEL)
@lru_cache(maxsize=256)
def fastest_batch(mix: RequestMix, instance: PromptServer) -> ServerSaturation:
    """Return the state, up to the saturated one, in which a server completes most."""
    full = saturation(mix, instance)
    least = min(full.entering / full.batch_size, full.entering)
    entering = np.geomspace(least, full.entering, BATCHES)
    throughput = entering / np.maximum(step_time(life(mix, instance), instance, entering), 1e-300)
    best = int(np.argmax(throughput))
    if best == BATCHES - 1 or throughput[best] <= full.throughput * (1 + 1e-9):
        return full
    return _at(mix, instance, float(entering[best]), "")


@answers(MODEL)
def highest_rate(mix: RequestMix, instance: PromptServer) -> float:
    """Return the arrival rate [requests/time] below which a server has a healthy equilibrium.

    It is above the capacity where full steps complete less than smaller ones: what preemptions
    compute again, and laws that bend upwards, make that so.
    """
    return fastest_batch(mix, instance).throughput


@answers(MODEL)
def capacity(mix: RequestMix, instance: PromptServer) -> float:
    """Return lambda_M [requests/time], the arrival rate that a server just keeps up with."""
    return saturation(mix, instance).throughput


@answers(MODEL)
def requests_that_fit(mix: RequestMix, instance: PromptServer) -> float:
    """Return how many running requests of mean size saturate the server, its size for the fluid."""
    each = life(mix, instance)
    kv = (instance.kv_tokens - instance.reserve) * each.stay / each.held
    return min(float(instance.most_running), kv)
