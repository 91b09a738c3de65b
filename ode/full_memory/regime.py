"""What a node does in the long run, in one word."""

from __future__ import annotations

from fluid import capacity, certificate, mean_time_to_full, saturation
from ode.full_memory.collapse import collapsed_throughput, stay
from serving import DecodeNode, RequestMix, answers

REGIMES = ("healthy", "bistable", "backlogged", "limit_cycle")
"""In the order of :func:`regime`'s description."""

LASTS = 30.0
"""Stays of a request in a full node for which a node must be well, on average, to be bistable."""


@answers("decode_node")
def edges(mix: RequestMix, instance: DecodeNode) -> dict[str, float]:
    """Return the arrival rates [requests/time] at which the regime changes.

    Returns
    -------
    dict of str to float
        ``capacity``; in mode sacrifice ``queued``, what a node completes once its memory has
        filled, if that is less.
    """
    most = capacity(mix, instance)
    found = {"capacity": most}
    if instance.mode == "sacrifice":
        full = collapsed_throughput(mix, instance)
        if full.evicts and full.throughput < most:
            found["queued"] = full.throughput
    return found


@answers("decode_node")
def regime(mix: RequestMix, instance: DecodeNode, arrival_rate: float) -> str:
    """Return the regime of ``instance`` under a constant ``arrival_rate`` (model, section 5).

    ========================  =======================================================
    ``healthy``               load < 1, and every queue drains
    ``bistable``              load < 1 in mode sacrifice, but above theta_sac: a node whose
                              memory has filled completes less than arrives and stays so
    ``backlogged``            load >= 1: the queue grows beside a steady full memory or batch
    ``limit_cycle``           load >= 1, and the equilibrium of the full node is unstable: requests
                              enter and grow in step, and are evicted in step where memory binds
    ========================  =======================================================

    theta_sac is marched, so it is known for any mix; stability is that of the discrete node, as
    :func:`fluid.certificate` says. A small node above theta_sac whose memory chance fills within
    :data:`LASTS` stays of a request never gets to be well: it is named as one at load 1.
    """
    at = edges(mix, instance)
    behind = arrival_rate >= at["capacity"]
    if not behind and arrival_rate <= at.get("queued", at["capacity"]):
        return "healthy"
    if not behind and _lasts(mix, instance, arrival_rate):
        return "bistable"
    return "backlogged" if certificate(mix, instance).stable else "limit_cycle"


def _lasts(mix: RequestMix, node: DecodeNode, rate: float) -> bool:
    """Return whether a node that starts empty is well for longer than a run into full memory."""
    least = LASTS * stay(mix) * saturation(mix, node).batch_time
    return mean_time_to_full(mix, node, rate) > least
