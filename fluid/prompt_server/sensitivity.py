"""Which parameters of a server, changed by a few per cent, decide whether it keeps up."""

from __future__ import annotations

from fluid._sensitivity import Flip, flips_of
from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer


@answers(MODEL)
def saturation_sensitivity(
    mix: RequestMix, instance: PromptServer, arrival_rate: float, change: float = 0.05
) -> list[Flip]:
    """Return the changes of one parameter that flip ``load < 1``, the largest changes first."""
    return flips_of(mix, instance, arrival_rate, change)
