"""The worst limit cycle of sacrifice mode: everybody in step, thrown out as they grow.

With one length D and LIFO eviction the worst cycle admits a batch of one age, evicts its youngest
whenever it outgrows memory, and admits the next when the survivors finish together. What the
evicted had decoded is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving import DecodeNode, RequestMix, UnsupportedError, answers


@dataclass(frozen=True, slots=True)
class WorstCycle:
    """One period of D iterations.

    Parameters
    ----------
    completed : [requests]
        Completions of a period.
    throughput_per_iteration : [requests]
    throughput : [requests/time]
        theta_sac.
    evictions_per_completion
    """

    completed: float
    throughput_per_iteration: float
    throughput: float
    evictions_per_completion: float


@answers("decode_node")
def worst_cycle(
    mix: RequestMix, instance: DecodeNode, *, whole_requests: bool = False
) -> WorstCycle:
    """Return the synchronised cycle of one (p, D) under sacrifice and LIFO (section 5).

    After k iterations ``n_k = min(kappa M / p, M / (p + k + 1))`` requests are left, the first
    bound only where the admission threshold kappa is below 1; the period ends with
    ``M / (p + D)`` completions, ``M / (D (p + D))`` per iteration. The batch-time law turns n_k
    into times.

    Parameters
    ----------
    whole_requests
        Round n_k down to whole requests (kappa = 1), as one node does.

    Raises
    ------
    UnsupportedError
        Where the form does not hold: mixed lengths, swapping mode, victims other than LIFO, or a
        batch budget that binds before memory.
    """
    reason = why_no_cycle(mix, instance)
    if whole_requests and instance.admission_threshold < 1:
        reason = reason or "whole requests are counted only with admission_threshold 1"
    if reason:
        raise UnsupportedError(f"no closed form of the worst cycle: {reason}")
    p, length = float(mix.prefill[0]), mix.longest_decode
    need = p + np.arange(1, length + 1)
    left = instance.M_total / need
    if instance.admission_threshold < 1 and p > 0:
        left = np.minimum(left, instance.admission_threshold * instance.M_total / p)
    if whole_requests:
        left = np.floor(left)
    period = float(instance.batch_time.duration(left * need, left).sum())
    done = float(left[-1])
    return WorstCycle(done, done / length, done / period, float((left[0] - done) / done))


def why_no_cycle(mix: RequestMix, instance: DecodeNode) -> str:
    """Return why :func:`worst_cycle` has no closed form here, or an empty text."""
    if instance.mode != "sacrifice":
        return "swapping throws no progress away"
    if instance.token_budget < instance.M_total:
        return "the batch budget B binds before memory, and who waits for it loses no progress"
    if instance.victim_policy != "LIFO":
        return f"victim_policy {instance.victim_policy!r} is not LIFO"
    if np.unique(mix.decode).size > 1 or np.unique(mix.prefill).size > 1:
        return "its loss has no closed form for mixed lengths; solve from a backlog to see it"
    if mix.prefill[0] + mix.decode[0] > instance.M_total:
        return "a request does not fit into memory"
    return ""
