"""What endangers the verdict of an analysis: flips, a full memory, and when chance fills it."""

from __future__ import annotations

from fluid import Certificate, Flip
from ode import TimeToFull, time_to_full
from serving import FluidServeError, Instance, RequestMix


def when_full(mix: RequestMix, instance: Instance, rate: float) -> TimeToFull | None:
    """Return when chance fills the memory; None where no model tells."""
    try:
        return time_to_full(mix, instance, rate)
    except FluidServeError:
        return None


def dangers(
    kind: str,
    verdict: Certificate | None,
    flips: tuple[Flip, ...],
    rate: float,
    collapsed: float | None,
    fills: TimeToFull | None,
) -> list[str]:
    """Return what endangers the verdict.

    ``collapsed`` is what a node with a full memory completes, where load alone does not say that
    this is less than arrives.
    """
    said = []
    if flips:
        worst = flips[0]
        said.append(
            f"saturation-sensitive: +-5 % of a single parameter turns the verdict "
            f"({len(flips)} of them do; {worst})"
        )
    if collapsed is not None and kind != "bistable":
        said.append(
            f"behind: chance soon fills the memory, and a full node completes {collapsed:.4g} of "
            f"the {rate:.4g} that arrive per time"
        )
    elif collapsed is not None:
        said.append(
            f"bistable: from an empty start the node is healthy; once its memory has filled it "
            f"completes {collapsed:.4g} of the {rate:.4g} that arrive per time and does not recover"
            + ("" if fills is None else f"; {fills.words}")
        )
    if verdict is None:
        return said
    if kind == "limit_cycle" or (not verdict.stable and verdict.memory_binds):
        said.append(verdict.message)
    return said
