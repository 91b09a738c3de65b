"""How fast a server works when its cache finds a share of the prompts, by the fluid model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import fluid.prompt_server as fluid
from serving import RequestMix, VllmV1, reading_of


@dataclass(frozen=True, slots=True)
class Pace:
    """The mean step of a server under steady arrivals.

    Parameters
    ----------
    load
        Arrival rate over the rate at which the server just keeps up.
    step : [time]
        Mean time of a step; where the load is 1 or above, of a step of the full server.
    prompt : [time/token]
        Of a prompt token in steps that are full of them.
    binds
        What a full server has not enough of.
    """

    load: float
    step: float
    prompt: float
    binds: str


def pace(
    node: VllmV1,
    mix: RequestMix,
    rate: float,
    hit_share: float,
    distinct: float = 1.0,
    *,
    is_full: bool = False,
) -> Pace:
    """Return how fast a server works.

    Parameters
    ----------
    node
        Law and limits.
    mix
        Lengths of the requests.
    rate : [requests/time]
        At which they arrive.
    hit_share
        Share of each prompt that the cache finds.
    distinct
        Distinct blocks that running requests hold over those that they would hold alone.
    is_full
        Whether somebody always waits, so that the server is full whatever the rate.
    """
    server = reading_of(node).node
    server = replace(
        server, hit_share=(hit_share,), kv_tokens=max(int(server.kv_tokens / distinct), 1)
    )
    full = fluid.saturation(mix, server)
    load = rate / full.throughput
    if load < 1 and not is_full:
        steady = fluid.equilibrium(mix, server, rate)
        step, decodes, held = steady.tau, steady.decode_tokens, steady.memory
    else:
        step, decodes, held = full.batch_time, full.batch_size, float(server.kv_tokens)
    room = max(node.max_num_batched_tokens - decodes, 1.0)
    prompt = float(node.batch_time.step_duration(decodes, held + room, room))
    return Pace(load, step, prompt / room, full.binds)
