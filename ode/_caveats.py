"""The caveats of a fluid solution: policies not modelled, nodes too small for a fluid limit."""

from __future__ import annotations

from serving import DecodeNode, RequestMix, UnsupportedError, answers

MODELLED = {
    "queue_policy": ("FCFS", "the fluid admits WAITING in order of arrival"),
    "victim_policy": ("LIFO", "the fluid evicts the youngest of RUNNING"),
}
"""The one policy of each kind that the fluid describes, and how it says so."""

LARGE_SHARE = 0.2
"""Share of the memory that one request may hold before a solution says so."""


@answers("decode_node")
def policy_labels(instance: DecodeNode, *, approximate: bool = False) -> tuple[str, ...]:
    """Return the caveats of solving ``instance``; empty where every policy is modelled.

    Parameters
    ----------
    instance
        The node to solve.
    approximate
        Accept other policies and say so, instead of refusing them.

    Raises
    ------
    UnsupportedError
        Naming the policy, why it is not modelled and what can be done, unless ``approximate``.
    """
    labels = []
    for key, (modelled, how) in MODELLED.items():
        given = getattr(instance, key)
        if given == modelled:
            continue
        if not approximate:
            raise UnsupportedError(
                f"{key} {given!r} is not modelled by the fluid: {how}; "
                f"use {modelled}, the discrete engine, or approximate=True to read it as {modelled}"
            )
        labels.append(f"approximate: {key} {given!r} solved as {modelled}")
    return tuple(labels)


def validity_labels(mix: RequestMix, instance: DecodeNode) -> tuple[str, ...]:
    """Return caveats on a mix whose requests are large for the instance."""
    labels = []
    longest = mix.prefill.max() + 1
    if longest > instance.token_budget:
        labels.append(
            f"approximate: a request of {longest:.0f} batch tokens exceeds B = {instance.B} and "
            "runs alone on the node; the fluid spreads it over several batches"
        )
    share = float((mix.prefill + mix.decode).max()) / instance.M_total
    if share > LARGE_SHARE:
        labels.append(
            f"approximate: one request holds up to {share:.0%} of the memory; chance fills it "
            "long before the mean does"
        )
    return tuple(labels)


def requests_that_fit(mix: RequestMix, instance: DecodeNode) -> float:
    """Return how many running requests of mean size saturate the node, its size for the fluid.

    The bias of the fluid limit falls like one over it. Of all running requests, weighted by the
    time they run, the mean size is W / E[D] tokens.
    """
    return min(instance.M_total, instance.token_budget) * mix.mean_decode / mix.work
