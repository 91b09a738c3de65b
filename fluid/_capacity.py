"""Capacity of an instance for a mix: the arrival rate at which a saturated node just keeps up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fluid._whole_requests import whole_requests
from serving import DecodeNode, RequestMix, answers

FEW = 12.0
"""Requests in a saturated batch below which whole ones are packed. Beyond, the straddle is right to
one per cent; at three it is wrong by up to 15 %."""

FEW_IN_STEP, IN_STEP = 130.0, 0.3
"""The same for a node with an admission threshold, if the CV of its decode lengths is below the
second number: requests that are alike are admitted in bursts, which the closed form, of a steady
stream, does not know. It is up to 4 % off at 60 requests and 2 % at 200, where a march takes long
to settle."""

BATCHES = 2048
"""Sizes of a batch, evenly spaced by their logarithm, among which the fastest is looked for."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """A node that always has somebody waiting, averaged over iterations.

    Parameters
    ----------
    batch_tokens : [tokens]
        Mean tokens C of a batch.
    batch_size : [requests]
        Mean executing requests.
    batch_time : [time]
        Mean duration of a batch.
    throughput : [requests/time]
        lambda_M, completions per time.
    """

    batch_tokens: float
    batch_size: float
    batch_time: float
    throughput: float


def straddle(mix: RequestMix) -> float:
    """Return the mean room s [tokens] that the first request not to fit leaves unused.

    The next entrant needs p + 1 tokens and the room left for it is what a uniform cut through
    the sequence of entrants leaves below the cut: size-biased, on average half of what it hits,
    ``s = E[(p+1)^2] / (2 E[p+1])`` (model, section 4).
    """
    need = mix.prefill + 1
    return float(mix.probability @ need**2 / (2 * mix.probability @ need))


@answers("decode_node")
def requests_that_fit(mix: RequestMix, instance: DecodeNode) -> float:
    """Return how many running requests of mean size saturate the node, its size for the fluid.

    The bias of the fluid limit falls like one over it. Of all running requests, weighted by the
    time they run, the mean size is W / E[D] tokens.
    """
    memory = instance.admission_threshold * instance.M_total
    return min(memory, instance.token_budget) * mix.mean_decode / mix.work


def packs_whole(mix: RequestMix, instance: DecodeNode) -> bool:
    """Return whether the capacity is that of whole requests, and no closed form."""
    few = FEW
    if instance.admission_threshold * instance.M_total < min(
        float(instance.M_total), instance.token_budget
    ):
        decode = mix.decode.astype(float)
        square = float(mix.probability @ decode**2) / mix.mean_decode**2
        few = FEW_IN_STEP if square < 1 + IN_STEP**2 else FEW
    return requests_that_fit(mix, instance) < few


@answers("decode_node")
@lru_cache(maxsize=256)
def saturation(mix: RequestMix, instance: DecodeNode) -> Saturation:
    """Return the saturated state of ``instance`` under ``mix`` (model, section 4).

    A request stays D iterations and works W token-iterations, so C tokens of a saturated batch
    belong to ``C E[D] / W`` requests; the batch-time law turns both into tau and the throughput
    is ``C / (W tau)``. With ``d_decode = d_kv = d_1`` it is ``C / (W (d_0 + d_1 C))``.

    C is the smaller of memory and batch budget less the straddle; an admission threshold kappa
    keeps ``used = C - batch_size`` near kappa M plus the overshoot of the last entrant. A batch
    holds at least one request. Where a batch holds few (:func:`packs_whole`), whole requests are
    packed instead, see :func:`fluid.whole_requests`, none of them losing what it has decoded.
    """
    if packs_whole(mix, instance):
        return _packed(mix, instance)
    return saturation_of_many(mix, instance)


@answers("decode_node")
def saturation_of_many(mix: RequestMix, instance: DecodeNode) -> Saturation:
    """Return the closed form of :func:`saturation`, whatever the size of the node."""
    tokens_per_request = mix.work / mix.mean_decode
    room = straddle(mix)
    ceilings = [instance.M_total - room, instance.token_budget - room]
    if instance.admission_threshold < 1:
        overshoot = float(mix.probability @ mix.prefill**2 / (2 * mix.probability @ mix.prefill))
        used = instance.admission_threshold * instance.M_total + overshoot
        ceilings.append(used / (1 - 1 / tokens_per_request))
    tokens = max(min(ceilings), tokens_per_request)
    size = tokens / tokens_per_request
    tau = float(instance.batch_time.duration(tokens, size))
    throughput = tokens / (mix.work * tau) if tau > 0 else float("inf")
    return Saturation(tokens, size, tau, throughput)


def _packed(mix: RequestMix, instance: DecodeNode) -> Saturation:
    """Return the saturated state of a node of few whole requests.

    In mode sacrifice what an eviction throws away is no part of the capacity: it is the difference
    between a healthy and a collapsed node.
    """
    if instance.mode == "sacrifice":
        law = replace(instance.batch_time, d_swap=0.0)
        instance = replace(instance, mode="swapping", batch_time=law)
    found = whole_requests(mix, instance)
    tokens = found.batch_tokens
    size = tokens * mix.mean_decode / mix.work
    tau = float(instance.batch_time.duration(tokens, size)) + found.beyond_law
    throughput = tokens / (mix.work * tau) if tau > 0 else float("inf")
    return Saturation(tokens, size, tau, throughput)


@answers("decode_node")
def fastest_batch(mix: RequestMix, instance: DecodeNode) -> Saturation:
    """Return the batch, up to the saturated one, at which a node would complete most.

    Under an affine law it is the saturated batch. A law that bends upwards may make a smaller one
    the fastest: the node then completes less the longer its queue is, and a batch budget B of
    its tokens and the straddle would serve it better.
    """
    full = saturation(mix, instance)
    if instance.batch_time.is_affine or packs_whole(mix, instance):
        return full  # of few whole requests no batch is a little smaller
    least = min(mix.work / mix.mean_decode, full.batch_tokens)
    tokens = np.geomspace(least, full.batch_tokens, BATCHES)
    size = tokens * mix.mean_decode / mix.work
    tau = instance.batch_time.duration(tokens, size)
    throughput = tokens / (mix.work * np.maximum(tau, 1e-300))
    best = int(np.argmax(throughput))
    if throughput[best] <= full.throughput * (1 + 1e-9):
        return full
    return Saturation(*(float(each[best]) for each in (tokens, size, tau, throughput)))


@answers("decode_node")
def highest_rate(mix: RequestMix, instance: DecodeNode) -> float:
    """Return the arrival rate [requests/time] below which an equilibrium is looked for."""
    return capacity(mix, instance)


@answers("decode_node")
def capacity(mix: RequestMix, instance: DecodeNode) -> float:
    """Return lambda_M [requests/time], the largest arrival rate that ``instance`` keeps up with.

    Load is the arrival rate over this capacity. See :func:`saturation`. It is what a node with a
    queue completes; under a law that bends upwards a smaller batch may complete more, see
    :func:`fastest_batch`.
    """
    return saturation(mix, instance).throughput
