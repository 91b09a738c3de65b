"""The closure of a server that computes its own prompts.

A request holds of what fills up first: a seat, or the KV of its blocks. A step does

    u = (c / C) d_0 + e

for each request in it, c being what the request holds of the C that there are and e the time that
it adds to a step. What all requests of a full step do then adds up to the time of the step,
whichever requests they are. A prompt is done in one step, as work that a request brings besides:
the time that it makes the step longer. Work is counted in thousandths of the mean that a request
does in a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluid._operating_point import check_takes_time
from fluid.node_work.closure import CLOSEST, Line, WorkClosure, closure_of
from fluid.node_work.lengths import Needs, lengths_of
from fluid.node_work.request_work import RequestWork, work_of, younger
from fluid.prompt_server.equilibrium import decode_step, own_time
from fluid.prompt_server.life import Life, life
from fluid.prompt_server.saturation import (
    KV_BLOCKS,
    ServerSaturation,
    prompt_step,
    saturation,
    step_time,
)
from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer

SIZES, FIXED_POINT = 32, 60
"""Numbers of running requests at which the time of a step is worked out, and iterations to it."""

SETTLED, LONGEST = 1e-6, 1e3
"""How precisely these times are worked out, and the longest over the time without prompts."""

THOUSANDTHS = 1000.0
"""Work of a request in a step, on average: bins by the logarithm begin at 1."""

NEARBY = 0.05
"""Relative change of a step over which its time is taken as straight."""


@dataclass(frozen=True, slots=True, eq=False)
class ServerBatches:
    """Steps of a server, by what its requests hold of the limit that binds.

    Parameters
    ----------
    saturation
        The full server; ``batch_tokens`` is C, in seats or tokens of KV.
    server, life
        The server, and what a request takes of its steps.
    arriving : [requests/time]
        At which prompts come.
    rate : [requests/time]
        The same, as far as a server that has room can bear it.
    prompt, square : [time, time^2]
        By how much a prompt makes a step of the full server longer, on average, and its square.
    at_nothing : [time]
        d_0.
    unit : [work/time]
        Work that a full server would do without preemptions.
    number, longer : shape (S,) [requests], [1]
        Running requests, and how many times as long the prompts that come make a step of theirs.
    slower
        Rate of a full server over what it would be without preemptions.
    reads : [tokens/request]
        KV that a running request reads in a step, on average.
    by_token : [time/token]
        What each of a request's own tokens adds to a step with room.
    """

    saturation: ServerSaturation
    server: PromptServer
    life: Life
    arriving: float
    rate: float
    prompt: float
    square: float
    at_nothing: float
    unit: float
    number: NDArray[np.float64]
    longer: NDArray[np.float64]
    slower: float
    reads: float
    by_token: float

    @property
    def is_seats(self) -> bool:
        """Whether seats are what fills up first, and not memory."""
        return self.saturation.binds != KV_BLOCKS

    @property
    def per_token(self) -> float:
        """What each of a request's own tokens adds to a step with room [time/token]."""
        return self.by_token

    def fastest(self, requests: float) -> float:
        """Return the rate [work/time] of a full step: its time is its work."""
        return self.unit * self.slower

    def full(self, requests: float) -> float:
        """Return the mean duration [time] of a full step of so many ``requests``."""
        held = self.saturation.batch_tokens
        usual = float(self.duration(held, self.saturation.batch_size))
        return self.saturation.batch_time + float(self.duration(held, requests)) - usual

    @property
    def late(self) -> float:
        """What a step takes besides its law's time [time]."""
        return 0.0 if self.server.is_ahead else self.server.gap

    def prompt_time(self, prefill: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much longer prompts of so many tokens make the steps of a full server."""
        return self.prompt * prefill / self.life.prompt.context

    def decoded(self, tokens: Any, requests: Any) -> tuple[Any, Any]:
        """Return the tokens that a step decodes, and the KV that they read [tokens]."""
        share = self.life.decodes / self.life.stay  # of the running requests, that compute
        decodes = share * np.asarray(requests, float)
        if self.is_seats:
            return decodes, decodes * self.reads
        return decodes, tokens * (self.life.context - self.life.prompt.context) / self.life.held

    def duration(self, tokens: Any, requests: Any) -> Any:
        """Return the duration [time] of a step to which nobody brings a prompt."""
        return self.server.batch_time.step_duration(*self.decoded(tokens, requests)) + self.late

    def passing(self, tokens: Any, requests: Any) -> tuple[Any, Any]:
        """Return the mean duration [time] of a step, with prompts, and its rate [work/time]."""
        alone = self.duration(tokens, requests)
        full = tokens >= self.saturation.batch_tokens * (1 - 1e-12)
        longer = np.interp(requests, self.number, self.longer)
        time = np.where(full, alone + self.saturation.entering * self.prompt, alone * longer)
        done = tokens / self.saturation.batch_tokens * self.at_nothing + alone - self.at_nothing
        prompts = min(self.rate * self.prompt, 1.0)
        share = np.where(full, self.slower, np.minimum(done / time + prompts, self.slower))
        return time, self.unit * share


@answers(MODEL)
def work_closure(
    mix: RequestMix,
    instance: PromptServer,
    rate: float,
    dispersion: float = 1.0,
    oldest: float | None = None,
    arriving: float | None = None,
) -> WorkClosure:
    """Return the closure of a server at an arrival ``rate`` [requests/time], see the decode node.

    Parameters
    ----------
    mix, instance, rate, dispersion, oldest
        As of the decode node.
    arriving : [requests/time]
        Rate at which requests arrive now, and bring prompts; None where it is the ``rate`` at which
        those came who execute.

    Raises
    ------
    SolveError
        If an empty step takes no time.
    """
    check_takes_time(instance.batch_time, "node_work")
    full = saturation(mix, instance)
    inside = min(rate, CLOSEST * full.throughput)
    arriving = rate if arriving is None else arriving
    now = min(arriving, CLOSEST * full.throughput)
    each = life(mix, instance)
    known = _work(mix, instance)
    work = known.work if oldest is None else _younger(mix, instance, oldest)
    number, longer = _steps(mix, instance, now)
    batches = ServerBatches(
        saturation=known.by_resource,
        server=instance,
        life=each,
        arriving=arriving,
        rate=now,
        prompt=known.prompt,
        square=known.square,
        at_nothing=known.at_nothing,
        unit=known.unit,
        number=number,
        longer=longer,
        slower=full.throughput * work.mean / known.unit,
        reads=_reads(each),
        by_token=known.by_token,
    )
    line = _line(batches, inside)
    return closure_of(work, batches, line, rate, dispersion)


def _reads(each: Life) -> float:
    return (each.context - each.prompt.context) / max(each.decodes, 1e-300)


def _by_resource(mix: RequestMix, server: PromptServer, full: ServerSaturation) -> ServerSaturation:
    """Return the full server with what it holds of the limit that binds as its ``batch_tokens``."""
    each = life(mix, server)
    held = full.batch_size if full.binds != KV_BLOCKS else full.entering * each.held
    return replace(full, batch_tokens=held)


class _Known(NamedTuple):
    """What does not depend on the arrival rate.

    Parameters
    ----------
    needs, work
        What requests take of their steps, and the moments of it.
    prompt, square : [time, time^2]
        Mean time of a prompt in a full server, and mean of its square.
    at_nothing : [time]
        d_0.
    unit : [work/time]
        Work that a full server would do without preemptions.
    by_resource
        The full server, see :func:`_by_resource`.
    by_token : [time/token]
        What a token of KV adds to a step of a server that is not full.
    """

    needs: Needs
    work: RequestWork
    prompt: float
    square: float
    at_nothing: float
    unit: float
    by_resource: ServerSaturation
    by_token: float


@lru_cache(maxsize=64)
def _younger(mix: RequestMix, server: PromptServer, oldest: float) -> RequestWork:
    known = _work(mix, server)
    return younger(mix, known.needs, known.work, oldest)


@lru_cache(maxsize=32)
def _work(mix: RequestMix, server: PromptServer) -> _Known:
    full, each = saturation(mix, server), life(mix, server)
    x = full.entering
    base = float(decode_step(each, server, x))
    nobody, by_request, by_token = _straight(each, server, x)
    share, p = mix.probability, mix.prefill
    late = int(server.is_ahead)
    stages = mix.decode.astype(float) + late
    # as the mean holds, so does each: the KV of its tokens and what its blocks do not use
    seats = full.binds != KV_BLOCKS
    kv = float(share @ (p * stages + stages * (stages - 1) / 2))
    unused = (each.held - kv) / float(share @ stages)
    size = np.ones(p.size) if seats else p - 1.0 + unused
    growth = 0.0 if seats else 1.0
    held = full.batch_size if seats else x * each.held
    adds = by_request + by_token * (p - 1.0)
    mean = float(share @ (adds * stages + by_token * stages * (stages + 1) / 2))
    right = (base - nobody) / x / mean if mean > 0 else 0.0
    longer = own_time(mix, server, x)
    usual = float(share @ longer)
    prompt = max((float(step_time(each, server, x)) - base) / x, 0.0)
    longer = longer * (prompt / usual) if usual > 0 else np.zeros(p.size)
    each_stage = size * (nobody / held) + adds * right
    slope = growth * nobody / held + by_token * right
    whole = float(share @ (each_stage * stages + slope * stages * (stages + 1) / 2))
    unit = THOUSANDTHS * float(share @ stages) / max(whole, 1e-300)
    needs = Needs(
        share=share,
        stages=stages,
        size=size,
        growth=growth,
        each=unit * each_stage,
        slope=unit * slope,
        brought=unit * longer,
        pending=0.5 + late,
    )
    work = work_of(needs, lengths_of(mix, needs, by_prompt=True))
    held_by = _by_resource(mix, server, full)
    usually = _straight(each, server, 0.7 * full.entering)[2]
    return _Known(needs, work, prompt, float(share @ longer**2), nobody, unit, held_by, usually)


def _straight(each: Life, server: PromptServer, x: float) -> tuple[float, float, float]:
    """Return a step's time at nothing, per running request and per token of KV, about ``x``."""
    law, share = server.batch_time, each.decodes / each.stay
    decodes, read = x * each.decodes, x * (each.context - each.prompt.context)

    def slope(more_decodes: float, more_read: float) -> float:
        return float(
            law.step_duration(decodes + more_decodes, read + more_read)
            - law.step_duration(decodes - more_decodes, read - more_read)
        )

    by_token = slope(0.0, NEARBY * read) / (2 * NEARBY * read) if read > 0 else 0.0
    by_decode = slope(NEARBY * decodes, 0.0) / (2 * NEARBY * decodes) if decodes > 0 else 0.0
    here = float(decode_step(each, server, x))
    nobody = max(here - by_decode * decodes - by_token * read, 0.0)
    return nobody, by_decode * share, by_token


@lru_cache(maxsize=64)
def _steps(
    mix: RequestMix, server: PromptServer, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers of requests, and :func:`_longer` at a ``rate``; read, not to be changed."""
    most = max(saturation(mix, server).batch_size * 1.5, 1.0)
    number = np.concatenate([[0.0], np.geomspace(0.25, most, SIZES)])
    return number, _longer(life(mix, server), server, rate, number)


def _longer(
    each: Life, server: PromptServer, rate: float, number: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how many times as long prompts at ``rate`` make the steps of so many requests."""
    x = number / each.stay
    base = decode_step(each, server, x)
    decodes, read = x * each.decodes, x * (each.context - each.prompt.context)
    late = 0.0 if server.is_ahead else server.gap
    time = base.copy()
    for _ in range(FIXED_POINT):
        come = rate * time
        some = -np.expm1(-come)
        mixed = late + prompt_step(server, each, decodes, read, (come, some))
        before, time = time, np.minimum(some * mixed + (1 - some) * base, LONGEST * base)
        if (np.abs(time - before) <= SETTLED * time).all():
            break
    return time / base


def _line(batches: ServerBatches, rate: float) -> Line:
    """Return the line of the mean time of a step, with prompts, about the usual one at ``rate``."""
    each, server, full = batches.life, batches.server, batches.saturation
    # as many run as come while one is there: where this line is crossed first
    step = decode_step(each, server, batches.number / each.stay) * batches.longer
    beyond = batches.number - np.minimum(rate * step * each.stay, full.batch_size)
    last = max(int(np.argmax(beyond > 0)), 1)
    share = beyond[last - 1] / min(beyond[last - 1] - beyond[last], -1e-300)
    number = float(batches.number[last - 1 : last + 1] @ np.array([1 - share, share]))
    longer = float(np.interp(number, batches.number, batches.longer))
    nobody, by_request, by_token = _straight(each, server, number / each.stay)
    if batches.is_seats:
        by_request, by_token = by_request + by_token * batches.reads, 0.0
    return Line(nobody * longer, by_request * longer, by_token * longer)
