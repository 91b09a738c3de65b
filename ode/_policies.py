"""Which scheduling policies the fluid solvers describe, one answer for all of them."""

from __future__ import annotations

from serving import DecodeNode, UnsupportedError

MODELLED = {
    "queue_policy": ("FCFS", "the fluid admits WAITING in order of arrival"),
    "victim_policy": ("LIFO", "the fluid evicts the youngest of RUNNING"),
}
"""The one policy of each kind that the fluid describes, and how it says so."""


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
