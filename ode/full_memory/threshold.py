"""Which admission threshold to run: as much memory as possible, without a collapse for good."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fluid import capacity, mean_time_to_full, threshold_without_eviction
from ode.full_memory.collapse import collapsed_throughput
from serving import DecodeNode, FluidServeError, RequestMix, SolveError, answers

RESOLUTION = 0.005
"""To which a threshold is found."""

HEADROOM = 1.01
"""What the worst cycle must complete, over the arrival rate, for a node to count as recovering."""


@dataclass(frozen=True, slots=True)
class ThresholdChoice:
    """An admission threshold and what speaks for it.

    Parameters
    ----------
    threshold
        kappa.
    reason
        In words.
    throughput : [requests/time]
        Completions from a queue that never ends, at this threshold.
    capacity : [requests/time]
        lambda_M at this threshold.
    without_eviction
        Largest threshold at which growth never evicts; no smaller one is ever needed.
    mean_time_to_full : [time]
        Until chance first fills the whole memory of an empty node without a threshold.
    """

    threshold: float
    reason: str
    throughput: float
    capacity: float
    without_eviction: float
    mean_time_to_full: float


@answers("decode_node")
def choose_threshold(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float, *, horizon: float | None = None
) -> ThresholdChoice:
    """Return the largest admission threshold with which the node does not stay collapsed.

    A threshold costs wait (admission stops earlier) and buys back the throughput of a node whose
    memory has filled. So take 1 where nothing can be won by less: evictions that lose no work, a
    full memory that still completes what arrives, or a memory that fills less than once in
    ``horizon``. Else the largest at which the cycle of a full node, marched from an endless queue,
    completes 1 % more than arrives: after any overload the node returns by itself. At the latest
    the one without any eviction.

    Parameters
    ----------
    mix, instance
        Its own admission threshold does not matter.
    arrival_rate : [requests/time]
        Below capacity.
    horizon : [time]
        Time for which a collapse may be left to chance; by default never.

    Raises
    ------
    SolveError
        If the rate is not below the capacity without a threshold.
    FluidServeError
        If the rate or the horizon is not positive.
    """
    if not arrival_rate > 0 or (horizon is not None and not horizon > 0):
        raise FluidServeError("a threshold is chosen for an arrival rate and a horizon > 0")
    open_node = replace(instance, admission_threshold=1.0)
    if arrival_rate >= capacity(mix, open_node):
        raise SolveError("threshold", "overload", "the arrival rate is not below the capacity")
    safe = threshold_without_eviction(mix, instance)
    fills = mean_time_to_full(mix, open_node, arrival_rate)

    def chosen(threshold: float, reason: str) -> ThresholdChoice:
        node = replace(instance, admission_threshold=threshold)
        settled = collapsed_throughput(mix, node)
        return ThresholdChoice(threshold, reason, settled.throughput, settled.capacity, safe, fills)

    def recovers(threshold: float) -> bool:
        settled = collapsed_throughput(mix, replace(instance, admission_threshold=threshold))
        return not settled.evicts or settled.throughput >= HEADROOM * arrival_rate

    if instance.mode != "sacrifice":
        return chosen(1.0, "swapping loses no work, a full memory costs nothing")
    if recovers(1.0):
        return chosen(1.0, "a full memory completes more than arrives")
    if horizon is not None and fills >= horizon:
        return chosen(1.0, f"memory fills once in {fills:.3g} on average, beyond the horizon")
    low, high = math.floor(safe / RESOLUTION), math.ceil(1 / RESOLUTION)
    while high - low > 1:  # throughput falls as the threshold rises
        middle = (low + high) // 2
        low, high = (middle, high) if recovers(middle * RESOLUTION) else (low, middle)
    found = low * RESOLUTION
    if found <= safe:
        return chosen(safe, "no smaller one lets the node recover; at this one growth never evicts")
    return chosen(found, "the largest at which a full node completes 1 % more than arrives")
