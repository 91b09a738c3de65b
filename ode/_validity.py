"""Where the fluid limit is a poor picture of the node: few requests, each a large share of it."""

from __future__ import annotations

from serving import DecodeNode, RequestMix

LARGE_SHARE = 0.2
"""Share of the memory that one request may hold before a solution says so."""


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
