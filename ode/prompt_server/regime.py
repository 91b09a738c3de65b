"""What a server that computes its own prompts does in the long run, in one word."""

from __future__ import annotations

from fluid.prompt_server import (
    ServerSaturation,
    capacity,
    certificate,
    highest_rate,
    saturation,
)
from fluid.prompt_server.certificate import NEUTRAL
from serving import RequestMix, UnsupportedError, answers
from serving.kinds.prompt_server import MODEL, PromptServer


@answers(MODEL)
def regime(mix: RequestMix, instance: PromptServer, arrival_rate: float) -> str:
    """Return the regime of a server, see :func:`ode.regime`.

    ``bistable`` where it keeps up from an empty start, but completes less than arrives once it is
    full. ``backlogged`` where it does not keep up, also where no certificate is to be had.
    """
    if arrival_rate >= highest_rate(mix, instance):
        return "limit_cycle" if _swings(mix, instance) else "backlogged"
    return "bistable" if arrival_rate >= capacity(mix, instance) else "healthy"


def _swings(mix: RequestMix, server: PromptServer) -> bool:
    """Return whether swings of the full server grow."""
    try:
        return certificate(mix, server).max_root > 1 + NEUTRAL
    except UnsupportedError:
        return False


@answers(MODEL)
def collapsed_throughput(mix: RequestMix, instance: PromptServer) -> ServerSaturation:
    """Return the state of a server that is full: its ``throughput`` is the capacity."""
    return saturation(mix, instance)
