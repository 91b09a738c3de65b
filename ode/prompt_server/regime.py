"""What a server that computes its own prompts does in the long run, in one word."""

from __future__ import annotations

from fluid.prompt_server import (
    capacity,
    certificate,
    highest_rate,
    requests_that_fit,
    saturation,
)
from fluid.prompt_server.certificate import NEUTRAL
from fluid.prompt_server.saturation import KV_BLOCKS, packs_whole
from fluid.prompt_server.whole_requests import whole_server
from ode.full_memory.collapse import Collapse
from ode.prompt_server.queued import with_a_queue
from serving import RequestMix, UnsupportedError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

MARCH_ERROR = 0.005
"""Relative error of what a marched server completes."""


@answers(MODEL)
def edges(mix: RequestMix, instance: PromptServer) -> dict[str, float]:
    """Return the arrival rates [requests/time] at which the regime changes.

    Returns
    -------
    dict of str to float
        ``capacity``; or ``queued``, what a full server completes, and ``highest``, that it keeps up
        with from an empty start, where they differ. Chance soon fills a server of few requests:
        for it ``highest`` is the capacity.
    """
    most, full = capacity(mix, instance), collapsed_throughput(mix, instance)
    highest = most
    if not (saturation(mix, instance).binds == KV_BLOCKS and packs_whole(mix, instance)):
        highest = highest_rate(mix, instance)
    if full.throughput >= highest:
        return {"capacity": most}
    return {"queued": full.throughput, "highest": highest}


@answers(MODEL)
def regime(mix: RequestMix, instance: PromptServer, arrival_rate: float) -> str:
    """Return the regime of a server, see :func:`ode.regime`.

    ``bistable`` where it keeps up from an empty start, but completes less than arrives once it has
    a queue. ``backlogged`` where it does not keep up, also where no certificate is to be had.
    """
    at = edges(mix, instance)
    if arrival_rate >= max(at.values()):
        return "limit_cycle" if _swings(mix, instance, unknown=False) else "backlogged"
    return "bistable" if arrival_rate >= min(at.values()) else "healthy"


def _swings(mix: RequestMix, server: PromptServer, *, unknown: bool) -> bool:
    """Return whether swings of the full server grow; ``unknown`` where no certificate tells."""
    try:
        return certificate(mix, server).max_root > 1 + NEUTRAL
    except UnsupportedError:
        return unknown


@answers(MODEL)
def collapsed_throughput(mix: RequestMix, instance: PromptServer) -> Collapse:
    """Return what a server completes that always has a queue.

    That is the capacity where the full server keeps its equilibrium. Where KV binds and swings
    grow, requests that are alike go on in step with each other, and preempt each other in step:
    this loss is marched, in whole requests if they are few.
    """
    most = capacity(mix, instance)
    kept = Collapse(most, most, 0.0, 0.0, True, 0)
    if saturation(mix, instance).binds != KV_BLOCKS or instance.swaps:
        return kept
    if not _swings(mix, instance, unknown=True):
        return kept
    if packs_whole(mix, instance):
        fit = requests_that_fit(mix, instance)
        full = whole_server(mix, instance, fit, spread=False)
        share = full.entering / full.batch_time / most
    else:
        share = with_a_queue(mix, instance, approximate=True).throughput
    if share >= 1 - MARCH_ERROR:
        return kept
    return Collapse(share * most, most, 0.0, MARCH_ERROR, True, 0)
