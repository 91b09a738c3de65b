"""What a server that computes its own prompts does in the long run, in one word."""

from __future__ import annotations

from fluid.prompt_server import capacity
from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer


@answers(MODEL)
def regime(mix: RequestMix, instance: PromptServer, arrival_rate: float) -> str:
    """Return ``healthy``, or ``backlogged`` where as much arrives as the server can serve."""
    return "backlogged" if arrival_rate >= capacity(mix, instance) else "healthy"
