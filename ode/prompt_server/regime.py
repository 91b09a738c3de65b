"""What a server that computes its own prompts does in the long run, in one word."""

from __future__ import annotations

from fluid.prompt_server import ServerSaturation, capacity, highest_rate, saturation
from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer


@answers(MODEL)
def regime(mix: RequestMix, instance: PromptServer, arrival_rate: float) -> str:
    """Return the regime of a server, see :func:`ode.regime`.

    ``bistable`` where it keeps up from an empty start, but completes less than arrives once it is
    full.
    """
    if arrival_rate >= highest_rate(mix, instance):
        return "backlogged"
    return "bistable" if arrival_rate >= capacity(mix, instance) else "healthy"


@answers(MODEL)
def collapsed_throughput(mix: RequestMix, instance: PromptServer) -> ServerSaturation:
    """Return the state of a server that is full: its ``throughput`` is the capacity."""
    return saturation(mix, instance)
