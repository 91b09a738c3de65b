"""What a node does in the long run, in one word."""

from __future__ import annotations

from fluid import capacity, certificate
from ode.full_memory.collapse import collapsed_throughput
from serving import DecodeNode, RequestMix, answers

REGIMES = ("healthy", "bistable", "backlogged", "limit_cycle")
"""In the order of :func:`regime`'s description."""


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
    :func:`fluid.certificate` says.
    """
    if arrival_rate >= capacity(mix, instance):
        return "backlogged" if certificate(mix, instance).stable else "limit_cycle"
    if instance.mode == "sacrifice":
        full = collapsed_throughput(mix, instance)
        if full.evicts and full.throughput < arrival_rate:
            return "bistable"
    return "healthy"
