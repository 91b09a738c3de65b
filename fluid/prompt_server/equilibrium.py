"""The healthy equilibrium of a server that computes its own prompts, while no limit of it binds.

In a step ``x = lambda (tau + i)`` requests start, tau being the mean time of a step and i the mean
idle time after it. The law makes tau a function of x, and idle times follow from how often a server
with so many requests is empty. Latencies are means of the flow, with what a request itself adds to
the step that computes its prompt, and with the longer steps that an arrival is more likely to meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluid._operating_point import check_takes_time
from fluid.prompt_server.life import Life, life
from fluid.prompt_server.lumps import relative_tokens
from fluid.prompt_server.saturation import (
    ServerSaturation,
    fastest_batch,
    prompt_step,
    saturation,
    step_time,
)
from serving import RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

STEPS = 200
"""Halvings of the interval that holds the mean time of a step at most."""

LENGTHS = 128
"""Lengths of prompts between which their own time is interpolated, for laws that bend."""

PRECISION = 1e-12
"""Relative width at which halving stops."""


@dataclass(frozen=True, slots=True)
class ServerEquilibrium:
    """Stationary state under Poisson arrivals.

    Parameters
    ----------
    load
        lambda / lambda_M.
    binds
        The limit that the server meets first as the rate grows, see
        :class:`fluid.prompt_server.ServerSaturation`.
    idle : [time]
        Mean idle time after a step.
    tau : [time]
        Mean time of a step; from one decode to the next where prompts have steps of their own.
    batch_tokens, prefill_tokens, decode_tokens : [tokens]
        Computed in a step, together and apart.
    running : [requests]
        In a step.
    memory : [tokens]
        KV that their blocks hold.
    wait : [time]
        From arrival to the start of the step that computes the prompt.
    ttft, tpot, e2el : [time]
        Means over requests; ``tpot`` is NaN where every request has one token.
    decode_time : [time]
        From the first token to the last.
    """

    load: float
    binds: str
    idle: float
    tau: float
    batch_tokens: float
    prefill_tokens: float
    decode_tokens: float
    running: float
    memory: float
    wait: float
    ttft: float
    tpot: float
    e2el: float
    decode_time: float


@answers(MODEL)
def equilibrium(mix: RequestMix, instance: PromptServer, arrival_rate: float) -> ServerEquilibrium:
    """Return the healthy equilibrium of a server under Poisson arrivals.

    Right to second order where no limit binds: in a large system, and in one of any size at a light
    load. A small one near its capacity waits for what chance brings, which is not in it.

    Parameters
    ----------
    mix, instance
        Lengths by class, and the server.
    arrival_rate : [requests/time]
        lambda > 0.

    Raises
    ------
    SolveError
        If the backlog grows from the start, see :func:`highest_rate`: there is no equilibrium; or
        if an empty step takes no time.
    """
    if not (math.isfinite(arrival_rate) and arrival_rate > 0):
        raise SolveError("equilibrium", "arrival_rate", f"{arrival_rate} is not a number > 0")
    check_takes_time(instance.batch_time, "equilibrium")
    full = saturation(mix, instance)
    load = arrival_rate / full.throughput
    best = fastest_batch(mix, instance)
    if arrival_rate >= best.throughput:
        raise SolveError("equilibrium", "overload", _overload(mix, instance, load))
    each = life(mix, instance)
    tau = _step_time(mix, instance, arrival_rate, best)
    x = _entering(mix.mean_decode, arrival_rate, tau)
    cycle = x / arrival_rate
    wait, own = _prompt_times(mix, instance, arrival_rate, tau, x)
    ttft = wait + own
    ttft += float(mix.probability @ further_steps(mix, instance, x)) * tau
    decode_time = (mix.mean_decode - 1) * (tau + _seen_by_a_decode(each, instance, x))
    several = mix.mean_decode - 1
    return ServerEquilibrium(
        load=load,
        binds=full.binds,
        idle=cycle - tau,
        tau=tau,
        batch_tokens=x * (each.decodes + each.prompt.tokens),
        prefill_tokens=x * each.prompt.tokens,
        decode_tokens=x * each.decodes,
        running=x * each.stay,
        memory=x * each.held,
        wait=wait,
        ttft=ttft,
        tpot=decode_time / several if several > 0 else math.nan,
        e2el=ttft + decode_time,
        decode_time=decode_time,
    )


def _overload(mix: RequestMix, server: PromptServer, load: float) -> str:
    full, best = saturation(mix, server), fastest_batch(mix, server)
    words = f"load is {load:.5g}, the backlog grows; {full.binds} binds"
    if best is not full:
        words += (
            f"; the batch-time law bends upwards: {best.batch_size:.0f} running requests complete "
            f"{best.throughput / full.throughput - 1:.1%} more than {full.batch_size:.0f}"
        )
    return words


def _entering(mean_decode: float, rate: float, tau: float) -> float:
    """Return the requests that start in a step, those of the idle time after it included.

    The server is empty with the chance that nobody is there of ``lambda E[D] tau`` on average; a
    step of an otherwise empty server holds one request.
    """
    held = rate * mean_decode * tau
    return rate * tau / -math.expm1(-held) if held > 0 else 1.0 / mean_decode


def _step_time(mix: RequestMix, server: PromptServer, rate: float, full: ServerSaturation) -> float:
    """Return tau, the least time that the steps themselves explain.

    Where prompts go first in steps of their own, that may be no time at all: then decodes wait
    until nobody else can start, and the server is full at any load.
    """
    each = life(mix, server)
    longest = full.entering / rate if server.prompts_apart else full.batch_time

    def beyond(tau: float) -> float:
        x = _entering(mix.mean_decode, rate, tau)
        if not server.prompts_apart:
            return float(step_time(each, server, x)) - tau
        base = np.array([float(decode_step(each, server, x))])
        return float(base[0] + prompt_steps(mix, server, base, rate)[0][0]) - tau

    low = 0.0
    high = min(float(step_time(each, server, 0.0)) or longest, longest)
    while beyond(high) > 0 and high < longest:
        low, high = high, min(2 * high, longest)
    if each.scatter is not None:
        return _root(beyond, low, high)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if beyond(middle) > 0 else (low, middle)
        if high - low <= PRECISION * high:
            break
    return 0.5 * (low + high)


def _root(beyond: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function falls through 0, in fewer calls than halving takes."""
    if beyond(low) <= 0 or beyond(high) > 0:
        return high
    from scipy.optimize import brentq

    found: Any = brentq(beyond, low, high, xtol=PRECISION * high)
    return float(found)


def decode_step(
    each: Life, server: PromptServer, entering: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the time [time] of a step without prompts that so many requests make."""
    x = np.asarray(entering, float)
    late = 0.0 if server.is_ahead else server.gap
    law = server.batch_time
    return law.step_duration(x * each.decodes, x * (each.context - each.prompt.context)) + late


def prompt_steps(
    mix: RequestMix, server: PromptServer, base: NDArray[np.float64], rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the time of the steps of prompts after a step of decodes, and of one of them [time].

    Who comes during a step of prompts makes another one: of them there are one over the chance
    that nobody comes, on average.
    """
    each, law = life(mix, server), server.batch_time
    own = float(mix.probability @ own_time(mix, server, 0.0))
    fixed = max(float(law.step_duration(0.0, each.prompt.context, each.prompt.tokens)) - own, 0.0)
    fixed += server.gap
    share = min(rate * own, 0.999)
    one, steps = np.full(base.shape, fixed + own), np.zeros(base.shape)
    for _ in range(20):
        steps = -np.expm1(-rate * base) * np.exp(np.minimum(rate * one, 50.0))
        together = (steps * fixed + share * base) / (1.0 - share)
        one = np.minimum(fixed + share * (base + together) / np.maximum(steps, 1e-12), 1e6 * fixed)
    return (steps * fixed + share * base) / (1.0 - share), one


def own_time(mix: RequestMix, server: PromptServer, x: float) -> NDArray[np.float64]:
    """Return how much longer [time] a prompt makes the steps that compute it, shape (J,)."""
    each = life(mix, server)
    law, prompt = server.batch_time, each.prompt
    if each.scatter is not None:
        return _own_time_on_average(mix, server, x, each.scatter)
    x = max(x, 1e-9)  # a step with prompts, however few
    own = prompt.tokens / max(prompt.context, 1e-300) * mix.prefill
    known = mix.prefill - own
    decodes, read = x * each.decodes, x * each.context
    if server.prompts_apart:
        decodes = read = 0.0
    around = (decodes, read, x * prompt.tokens, x * prompt.attention, x * prompt.known)
    with_it = law.step_duration(
        decodes, read + mix.prefill, x * prompt.tokens + own,
        x * prompt.attention + own * (known + (own + 1) / 2), x * prompt.known + known,
    )  # fmt: skip
    return with_it - law.step_duration(*around)


def _own_time_on_average(
    mix: RequestMix, server: PromptServer, x: float, scatter: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return :func:`own_time` for a law that bends: the mean over the prompts beside it.

    A prompt is alone in its step where nobody else starts; then the step would have had none.
    """
    each, law = life(mix, server), server.batch_time
    prompt = each.prompt
    length = np.unique(mix.prefill)
    if length.size > LENGTHS:
        length = np.quantile(mix.prefill, np.linspace(0, 1, LENGTHS))
    own = prompt.tokens / max(prompt.context, 1e-300) * length
    known = length - own
    attention = own * (known + (own + 1) / 2)
    decodes, read = x * each.decodes, x * (each.context - prompt.context)
    if server.prompts_apart:
        decodes = read = 0.0
    some = -math.expm1(-x) if x > 0 else 0.0
    alone = law.step_duration(decodes, read + length, own, attention, known)
    if not server.prompts_apart:
        alone = alone - law.step_duration(decodes, read)
    size = relative_tokens(scatter, np.array(x)) * (x / some if some > 0 else 1.0)
    beside = law.step_duration(
        decodes, read + size[:, None] * prompt.context + length,
        size[:, None] * prompt.tokens + own, size[:, None] * prompt.attention + attention,
        size[:, None] * prompt.known + known,
    )  # fmt: skip
    beside = beside - law.step_duration(
        decodes, read + size * prompt.context, size * prompt.tokens, size * prompt.attention,
        size * prompt.known,
    )[:, None]  # fmt: skip
    longer = (1 - some) * alone + some * beside.mean(axis=0)
    return np.interp(mix.prefill, length, longer)


def further_steps(mix: RequestMix, server: PromptServer, x: float) -> NDArray[np.float64]:
    """Return how many steps a prompt takes beyond its first, shape (J,).

    What the decodes leave of a step does not hold it.
    """
    each = life(mix, server)
    if server.prompts_apart:
        return np.zeros(len(mix))
    own = each.prompt.tokens / max(each.prompt.context, 1e-300) * mix.prefill
    left = max(server.step_tokens - x * each.decodes, 1.0)
    return np.maximum(np.ceil(own / left) - 1, 0.0)


def _prompt_times(
    mix: RequestMix, server: PromptServer, rate: float, tau: float, x: float
) -> tuple[float, float]:
    """Return the mean wait for the step of the prompt, and the time of that step [time]."""
    longer = own_time(mix, server, x)
    own, square = (float(mix.probability @ longer**power) for power in (1, 2))
    busy = -math.expm1(-x * mix.mean_decode) if x > 0 else 0.0
    if server.prompts_apart:
        base = np.array([float(decode_step(life(mix, server), server, x))])
        _, one = prompt_steps(mix, server, base, rate)
        step = float(one[0])
        residual = (base[0] ** 2 + max(tau - base[0], 0.0) * step) / (2 * tau)
        return float(busy * residual), step
    second = tau**2 + x * square / max(1.0 - (rate * own) ** 2, 1e-3)
    residual = second / (2 * tau) if tau > 0 else 0.0
    ahead = tau if server.is_ahead else 0.0
    return busy * (residual + ahead), tau + own


def _seen_by_a_decode(each: Life, server: PromptServer, x: float) -> float:
    """Return how much longer [time] than tau a request finds the steps that decode it.

    The others come as if it were not there, so that a step has its own token and KV besides.
    """
    if each.stay <= 1:
        return 0.0
    law = server.batch_time
    mean_read = (each.context - each.prompt.context) / max(each.decodes, 1e-300)
    prompt = each.prompt
    rest = (x * prompt.tokens, x * prompt.attention, x * prompt.known)
    if server.prompts_apart:
        rest = (0.0, 0.0, 0.0)
    decodes, read = x * each.decodes, x * each.context
    if each.scatter is not None and not server.prompts_apart:
        read -= x * prompt.context
        starting = np.asarray(x), -np.expm1(-np.asarray(x))
        more = prompt_step(server, each, decodes + 1, read + mean_read, starting)
        more -= prompt_step(server, each, decodes, read, starting)
        more *= starting[1]
        more += (1 - starting[1]) * (
            law.step_duration(decodes + 1, read + mean_read) - law.step_duration(decodes, read)
        )
        return float(more)
    more = law.step_duration(decodes + 1, read + mean_read, *rest)
    return float(more - law.step_duration(decodes, read, *rest))
