"""Scores by what instances tell of themselves: counts, KV and prompts. The lowest wins.

Each is a function of what the router sees and of the request. It returns a number for each
instance, shape (N,); its first line says of what. It remembers nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduling.messages import RequestMeta
from scheduling.signals import View


def jsq(view: View, request: RequestMeta) -> NDArray:
    """Join the shortest queue: requests in the system."""
    return view.in_system


def jsq_own(view: View, request: RequestMeta) -> NDArray:
    """Join the shortest queue, with what the router has sent since counted in."""
    return view.in_system + view.own


def jsq_capacity(view: View, request: RequestMeta) -> NDArray:
    """Join the queue that is over soonest: requests in the system and this one, by capacity."""
    return (view.in_system + 1) / view.capacity


def jsq_residual(view: View, request: RequestMeta) -> NDArray:
    """Time for the requests in the system, by capacity, and what is left of the batch."""
    return view.in_system / view.capacity + view.batch_residual


def least_kv(view: View, request: RequestMeta) -> NDArray:
    """Share of the KV memory that is in use."""
    return view.kv_used / view.kv_total


def least_tokens(view: View, request: RequestMeta) -> NDArray:
    """Tokens of running requests, and prompts of those that wait."""
    return view.kv_used + view.waiting_prompts


def free_kv(view: View, request: RequestMeta) -> NDArray:
    """KV per running request that is free once those who wait have entered: most is best."""
    free = view.kv_total - view.kv_used - view.waiting_prompts
    return -free / np.maximum(view.num_running, 1)


def pending_prefill(view: View, request: RequestMeta) -> NDArray:
    """Prompt tokens of requests that have no token yet."""
    return view.pending_prompts


def lmetric(view: View, request: RequestMeta) -> NDArray:
    """Prompt tokens to compute, those of this request included, times the size of the batch."""
    new = view.pending_prompts + max(request.prefill_length - request.prefix_hit, 0)
    return new * (view.in_system + 1)
