"""One server in equilibrium by the number of its requests: births, and deaths.

Two clocks are told apart. How many requests are in the system changes slowly, over a stay: a chain
of births at the arrival rate and deaths at the rate at which so many running requests end. Beyond
the number that seats, KV or tokens allow the others wait for room. How long a step takes changes
fast: the prompts that arrive during a step make a later one longer, so that given the requests that
run the times of steps are those of a queue that serves all who came since the last look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server import ServerEquilibrium, capacity, equilibrium, life, most_entering
from fluid.prompt_server.equilibrium import (
    decode_step,
    further_steps,
    own_time,
    prompt_steps,
)
from fluid.prompt_server.life import Life
from fluid.prompt_server.saturation import KV_BLOCKS, prompt_step
from serving import LatencySamples, RequestMix, SolveError
from serving.kinds.prompt_server import PromptServer

MOST_STATES = 4000
"""Numbers of requests in the system that are told apart; beyond, one stands for several."""

TAIL = 40.0
"""Natural logarithm of how much rarer than the most frequent state the last one is."""

CAVEAT = (
    "approximate: these latencies take requests as independent and queues as those of a server "
    "with exponential times; docs/server_model.md has the errors, the largest near capacity"
)

KNOTS, TURNS, SETTLED, LONGEST = 16, 12, 1e-6, 1e3
"""For laws that bend: numbers of running requests between which steps are interpolated, how often
and how precisely they are worked out from who arrives during them, and the longest over the time
without prompts."""

GOLDEN = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703, 0.45030152274302)
"""Generators of points that fill four dimensions evenly: the R4 sequence."""


@dataclass(frozen=True, eq=False)
class _Chain:
    """Requests in the system, and the steps that so many make.

    Parameters
    ----------
    number, chance : shape (K,)
        Requests in the system, and how often.
    base, step : shape (K,) [time]
        Mean time of a step without prompts, and with those that arrive.
    room : [requests]
        That run at most.
    freed : [requests/time]
        That leave a full server.
    """

    number: NDArray[np.float64]
    chance: NDArray[np.float64]
    base: NDArray[np.float64]
    step: NDArray[np.float64]
    room: float
    freed: float


def births_and_deaths(
    mix: RequestMix,
    server: PromptServer,
    rate: float,
    *,
    dispersion: float,
    samples: int,
) -> tuple[float, str, LatencySamples]:
    """Return the share that waits for room, a caveat, and the latencies of arrivals.

    Parameters
    ----------
    mix, server
        Lengths, and the server.
    rate : [requests/time]
        Below capacity.
    dispersion
        Variance of the number of arrivals in a long time over its mean; 1 for Poisson arrivals.
    samples
        Arrivals that stand for all.

    Raises
    ------
    SolveError
        If load >= 1, or an empty step takes no time.
    """
    point = equilibrium(mix, server, rate)
    longer = own_time(mix, server, point.tau * rate)
    own, square = (float(mix.probability @ longer**power) for power in (1, 2))
    prompts = rate * own  # share of the time that prompts take
    if prompts >= 1:
        raise SolveError("stationary", "overload", f"prompts alone take {prompts:.3g} of the time")
    chain = _chain(mix, server, rate, dispersion, own, point)
    found = _latencies(mix, server, rate, chain, longer, square, prompts, samples)
    return float(chain.chance[chain.number >= chain.room].sum()), CAVEAT, found


def _chain(
    mix: RequestMix,
    server: PromptServer,
    rate: float,
    dispersion: float,
    own: float,
    point: ServerEquilibrium,
) -> _Chain:
    """Return the requests in the system as a chain of births and deaths.

    Deaths among those that run are as if decode lengths were geometric, which gives the right law
    where nobody waits; the queue beyond them has the variability of its service and arrivals.
    """
    each = life(mix, server)
    limits = most_entering(mix, server)
    binds = min(limits, key=lambda name: limits[name])
    room = max(limits[binds] * each.stay, 1.0)
    stay = each.stay

    def steps(running: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        base = decode_step(each, server, running / stay)
        if server.prompts_apart:
            return base, base + prompt_steps(mix, server, base, rate)[0]
        if each.scatter is not None:
            return base, _steps_of_a_bent_law(each, server, rate, running, base)
        return base, base / max(1.0 - rate * own, 1e-9)

    service = _service(mix, server, binds)
    freed = capacity(mix, server)
    slow = 2.0 / (dispersion + service)
    ratio = math.exp(-slow * max(1.0 - rate / freed, 1e-3))
    beyond = TAIL / max(-math.log(ratio), 1e-6)
    last = room + beyond
    width = max(1.0, last / MOST_STATES)
    number = np.arange(0.0, last + width, width)
    running = np.clip(number, 0.5, room)
    base, step = steps(running)
    # the law may bend, which the time of one prompt does not know: right at the equilibrium
    right = point.tau / float(steps(np.array([max(point.running, 0.5)]))[1][0])
    base, step = base * right, step * right
    deaths = running / stay / step
    # births and deaths over a width of states, in logarithms
    climb = np.log(rate / deaths) * width * min(1.0, 2.0 / (dispersion + 1.0))
    climb /= _unevenness(mix) if binds == KV_BLOCKS else 1.0
    climb = np.where(number >= room, math.log(ratio) * width, climb)
    climb = _until_it_runs_away(climb)
    number, base, step = (each[: climb.size] for each in (number, base, step))
    logs = np.concatenate([[0.0], np.cumsum(0.5 * (climb[:-1] + climb[1:]))])
    chance = np.exp(logs - logs.max())
    return _Chain(number, chance / chance.sum(), base, step, room, freed)


def _steps_of_a_bent_law(
    each: Life,
    server: PromptServer,
    rate: float,
    running: NDArray[np.float64],
    base: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean time of a step by requests that run [time]: the least that explains itself.

    Who arrives during a step starts in a later one.
    """
    knots = np.linspace(running[0], running.max(), min(KNOTS, running.size))
    decodes, read = (knots / each.stay * of for of in (each.decodes, each.context))
    read -= knots / each.stay * each.prompt.context
    late = 0.0 if server.is_ahead else server.gap
    alone = server.batch_time.step_duration(decodes, read) + late

    def after(step: NDArray[np.float64]) -> NDArray[np.float64]:
        x = rate * step
        some = -np.expm1(-x)
        mixed = prompt_step(server, each, decodes, read, (x, some)) + late
        return some * mixed + (1 - some) * alone

    before, longest = alone, LONGEST * alone
    step = then = after(before)
    for _ in range(TURNS):
        new = after(step)
        slope = (new - then) / np.where(step > before, step - before, np.inf)
        # a secant from below; where prompts come faster than they go there is nothing to find
        to = np.where(slope < 0.98, step + (new - step) / (1 - np.minimum(slope, 0.98)), 2 * step)
        before, then, step = step, new, np.clip(to, step, longest)
        if (step - before <= SETTLED * step).all():
            break
    return base * np.interp(running, knots, step / alone)


def _until_it_runs_away(climb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the states from which the number of requests returns to the least stable one.

    Where more arrive than a full server completes there are others, from which it grows for good.
    """
    falls = np.flatnonzero(climb <= 0)
    if falls.size == 0:
        return climb[:1]
    rises = np.flatnonzero(climb[falls[0] :] > 0)
    return climb[: falls[0] + rises[0]] if rises.size else climb


def _unevenness(mix: RequestMix) -> float:
    """Return the mean square over the squared mean of the KV of the requests that run.

    By as much more than their number does the KV vary that they hold together.
    """
    p, d = mix.prefill, mix.decode.astype(float)
    square = d * p**2 + p * d * (d - 1) + (d - 1) * d * (2 * d - 1) / 6
    mean = float(mix.probability @ (p * d + d * (d - 1) / 2)) / mix.mean_decode
    return float(mix.probability @ square) / mix.mean_decode / mean**2


def _service(mix: RequestMix, server: PromptServer, binds: str) -> float:
    """Return the squared variation of what a request takes of the limit that binds."""
    d = mix.decode.astype(float)
    taken = {
        "max_num_seqs": d,
        "max_num_batched_tokens": mix.prefill + d,
    }.get(binds, mix.prefill * d + d * (d + 1) / 2)
    mean = float(mix.probability @ taken)
    return float(mix.probability @ taken**2) / mean**2 - 1.0


def _latencies(
    mix: RequestMix,
    server: PromptServer,
    rate: float,
    chain: _Chain,
    longer: NDArray[np.float64],
    square: float,
    prompts: float,
    samples: int,
) -> LatencySamples:
    """Return the latencies of arrivals, drawn evenly over requests and states."""
    at = np.arange(samples) + 0.5
    draws = [np.asarray((at * step) % 1.0, np.float64) for step in GOLDEN]
    atom = np.searchsorted(np.cumsum(mix.probability), at / samples * (1 - 1e-12))
    state = np.searchsorted(np.cumsum(chain.chance), draws[0] * (1 - 1e-12))
    atom, state = np.minimum(atom, len(mix) - 1), np.minimum(state, chain.number.size - 1)
    number, step, base = chain.number[state], chain.step[state], chain.base[state]
    decode = mix.decode[atom].astype(float)
    queue = np.maximum(number - chain.room, 0.0)
    noise = _normal(draws[1])
    room = np.maximum(queue + noise * np.sqrt(queue), 0.0) / chain.freed
    busy = -np.expm1(-number)
    if server.prompts_apart:
        one = prompt_steps(mix, server, base, rate)[1]
        met = np.where(draws[1] * step < base, base, one)
        ahead, own = 0.0, one + longer[atom] - float(mix.probability @ longer)
    else:
        variance = rate * step * square / max(1.0 - prompts**2, 1e-9)
        met = _gamma(step + variance / step, variance, draws[1])  # a longer one is met more often
        met = np.maximum(met, base)
        of_prompts = prompts if life(mix, server).scatter is None else 1.0 - base / step
        brought = _gamma(met * of_prompts, met * rate * square, draws[3])
        further = further_steps(mix, server, rate * float(chain.chance @ chain.step))[atom]
        ahead = step if server.is_ahead else np.zeros(samples)
        own = base + brought + longer[atom] + further * step
    delay = room + busy * draws[2] * met
    first = delay + busy * ahead + own
    tpot = _decode_times(mix, rate, chain, step, decode, square, prompts, noise)
    ending = first + (decode - 1) * tpot
    return LatencySamples(
        queue_delay=delay,
        ttft=first,
        tpot=np.where(decode > 1, tpot, np.nan),
        e2el=ending,
        weight=np.full(samples, 1.0 / samples),
    )


def _decode_times(
    mix: RequestMix,
    rate: float,
    chain: _Chain,
    step: NDArray[np.float64],
    decode: NDArray[np.float64],
    square: float,
    prompts: float,
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean time between the tokens of arrivals [time].

    The number of requests forgets where it was as fast as requests end, slower where more requests
    make longer steps; prompts scatter the steps about what that number makes them.
    """
    running = np.minimum(chain.number, chain.room)
    mean = float(chain.chance @ running) / float(chain.chance @ (running / chain.step))
    slope = np.gradient(chain.step, chain.number) if chain.number.size > 2 else 0 * chain.step
    relax = mean / max(mean - float(chain.chance @ (slope * chain.number)), 0.05 * mean)
    turns = np.minimum(decode / mix.mean_decode / relax, 50.0)
    around = mean + (step - mean) * -np.expm1(-turns) / np.maximum(turns, 1e-9)
    scatter = math.sqrt(rate * mean * square) / max(1.0 - prompts, 1e-3)
    scatter_of = scatter / np.sqrt(np.maximum(decode - 1, 1.0))
    return np.maximum(around + scatter_of * noise, chain.base[0])


def _gamma(
    mean: NDArray[np.float64], variance: NDArray[np.float64], chance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Gamma-distributed values [time] by their chance (Wilson and Hilferty)."""
    ninth = np.minimum(variance / np.maximum(9.0 * mean**2, 1e-300), 1.0)  # 1 / (9 shape)
    return mean * np.maximum(1.0 - ninth + _normal(chance) * np.sqrt(ninth), 0.0) ** 3


def _normal(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri

    return ndtri(chance)
