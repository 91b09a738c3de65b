"""The caveats of a fluid solution: policies not modelled, nodes too small for a fluid limit."""

from __future__ import annotations

from serving import DecodeNode, RateProfile, RequestMix, UnsupportedError, answers

MODELLED = {
    "queue_policy": ("FCFS", "the fluid admits WAITING in order of arrival"),
    "victim_policy": ("LIFO", "the fluid evicts the youngest of RUNNING"),
}
"""The one policy of each kind that the fluid describes, and how it says so."""

LARGE_SHARE = 0.2
"""Share of the memory, or of the batch budget, that one request may take before a solution says
so."""


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


def scatter_labels(profile: RateProfile) -> tuple[str, ...]:
    """Return the caveat of a fluid limit on arrivals that are not Poisson about their curve."""
    if profile.dispersion in (0.0, 1.0):
        return ()
    than = "longer" if profile.dispersion > 1 else "shorter"
    return (
        "approximate: the fluid limit of large systems does not depend on the burstiness of "
        f"arrivals; on a node of finite size these, of {profile.dispersion:.3g} times Poisson's "
        f"variance, make queues {than}, as the method node_work and the engine show",
    )


def validity_labels(mix: RequestMix, instance: DecodeNode) -> tuple[str, ...]:
    """Return caveats on a mix whose requests are large for the instance."""
    labels = []
    longest = float((mix.prefill + mix.decode).max())
    share = longest / instance.token_budget
    if mix.prefill.max() + 1 > instance.token_budget:
        labels.append(
            f"approximate: a request of {mix.prefill.max() + 1:.0f} batch tokens exceeds "
            f"B = {instance.B} and runs alone on the node; the fluid spreads it over several "
            "batches"
        )
    elif share > LARGE_SHARE:
        labels.append(
            f"approximate: one request takes up to {share:.0%} of the batch budget; a batch holds "
            "whole requests and leaves the rest unused, the fluid fills it to the last token"
        )
    share = longest / instance.M_total
    if share > LARGE_SHARE:
        labels.append(
            f"approximate: one request holds up to {share:.0%} of the memory; chance fills it "
            "long before the mean does"
        )
    return tuple(labels)
