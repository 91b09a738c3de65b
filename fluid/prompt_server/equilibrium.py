"""The healthy equilibrium of a server that computes its own prompts, while no limit of it binds.

In a step ``x = lambda (tau + i)`` requests start, tau being the mean time of a step and i the mean
idle time after it. The law makes tau a function of x, and idle times follow from how often a server
with so many requests is empty. Latencies are means of the flow, with what a request itself adds to
the step that computes its prompt, and with the longer steps that an arrival is more likely to meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluid._operating_point import check_takes_time
from fluid.prompt_server.life import Life, life
from fluid.prompt_server.saturation import fastest_batch, saturation, step_time
from serving import RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

STEPS = 200
"""Halvings of the interval that holds the mean time of a step at most."""

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
        If load >= 1: the backlog grows and there is no equilibrium; or if an empty step takes no
        time.
    """
    if not (math.isfinite(arrival_rate) and arrival_rate > 0):
        raise SolveError("equilibrium", "arrival_rate", f"{arrival_rate} is not a number > 0")
    check_takes_time(instance.batch_time, "equilibrium")
    full = saturation(mix, instance)
    load = arrival_rate / full.throughput
    if load >= 1:
        raise SolveError("equilibrium", "overload", _overload(mix, instance, load))
    each = life(mix, instance)
    tau = _step_time(each, instance, mix.mean_decode, arrival_rate, full.batch_time)
    x = _entering(mix.mean_decode, arrival_rate, tau)
    cycle = x / arrival_rate
    wait, own = _prompt_times(mix, each, instance, tau, x)
    ttft = wait + tau + own
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


def _step_time(
    each: Life, server: PromptServer, mean_decode: float, rate: float, longest: float
) -> float:
    """Return tau, the least time that the steps themselves explain."""

    def beyond(tau: float) -> float:
        return float(step_time(each, server, _entering(mean_decode, rate, tau))) - tau

    low = 0.0
    high = float(step_time(each, server, 0.0)) or longest
    while beyond(high) > 0 and high < longest:
        low, high = high, min(2 * high, longest)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if beyond(middle) > 0 else (low, middle)
        if high - low <= PRECISION * high:
            break
    return 0.5 * (low + high)


def _own_time(mix: RequestMix, each: Life, server: PromptServer, x: float) -> NDArray[np.float64]:
    """Return how much longer [time] a prompt makes the steps that compute it, shape (J,).

    A prompt that does not fit into what the decodes leave of a step takes further steps.
    """
    law, prompt = server.batch_time, each.prompt
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
    left = max(server.step_tokens - decodes, 1.0)
    further = np.maximum(np.ceil(own / left) - 1, 0.0)
    return with_it - law.step_duration(*around) + further * law.step_duration(decodes, read)


def _prompt_times(
    mix: RequestMix, each: Life, server: PromptServer, tau: float, x: float
) -> tuple[float, float]:
    """Return the mean wait for the step of the prompt, and what the prompt adds to it [time]."""
    longer = _own_time(mix, each, server, x)
    own = float(mix.probability @ longer)
    second = tau**2 + x * float(mix.probability @ longer**2)
    busy = -math.expm1(-x * mix.mean_decode) if x > 0 else 0.0
    residual = second / (2 * tau) if tau > 0 else 0.0
    ahead = tau if server.is_ahead else 0.0
    return busy * (residual + ahead), own


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
    more = law.step_duration(decodes + 1, read + mean_read, *rest)
    return float(more - law.step_duration(decodes, read, *rest))
