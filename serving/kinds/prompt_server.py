"""What the fluid model of a server that computes its own prompts has to know of it.

The kinds ``vllm_v1`` and ``vllm_v0`` read their settings as a :class:`PromptServer`; the model of
this name in ``fluid`` and ``ode`` answers for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from serving.arguments import checked
from serving.batch_time import BatchTimeLaw
from serving.kinds.kind import Reading

MODEL = "prompt_server"
"""Name of the fluid model, see :class:`serving.Reading`."""


@dataclass(frozen=True, slots=True)
class PromptServer:
    """A server whose steps compute prompts and decode.

    Parameters
    ----------
    engine
        Kind that was read, for words.
    batch_time, time_unit
        Batch-time law, and the unit of every time.
    kv_tokens : [tokens]
        KV that requests can hold.
    reserve : [tokens]
        KV that an admission leaves free.
    block_size : [tokens]
        Tokens of a KV block.
    most_running : [requests]
        Requests that run at once.
    step_tokens : [tokens]
        Tokens that a step computes at most.
    is_ahead
        Whether a step is decided while the one before runs, so that what a step brings is known
        one step late.
    ends_unknown
        Whether nobody knows in advance which token is the last. With ``is_ahead`` a request then
        computes a token too many.
    gap : [time]
        From the decision of a step to its start.
    prompts_apart
        Whether a step is either prompts or decodes, prompts first.
    swaps
        Whether a preempted request keeps its KV on the CPU, and does not compute it again.
    keeps_prefixes
        Whether a preempted request finds in the cache what nobody has overwritten.
    hit_share
        Share of the prompt tokens that a request finds in the prefix cache, by class; one value
        stands for all classes.
    read_as
        What the model does not describe and reads as something else, as (setting, value, read as).
    notes
        What the model leaves out of this server, one line each.
    """

    engine: str
    batch_time: BatchTimeLaw
    time_unit: str
    kv_tokens: int
    reserve: int
    block_size: int
    most_running: int
    step_tokens: int
    is_ahead: bool
    ends_unknown: bool
    gap: float
    prompts_apart: bool
    swaps: bool
    keeps_prefixes: bool
    hit_share: tuple[float, ...] = (0.0,)
    read_as: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @checked(n="> 0")
    def scaled(self, n: int) -> PromptServer:
        """Return a server ``n`` times as large whose steps take as long."""
        return replace(
            self,
            batch_time=self.batch_time.scaled(n),
            kv_tokens=self.kv_tokens * n,
            reserve=self.reserve * n,
            most_running=self.most_running * n,
            step_tokens=self.step_tokens * n,
        )


def reading_by(read: Callable[[Any], PromptServer]) -> Callable[[Any], Reading]:
    """Return the reading of a kind whose settings ``read`` turns into those of the model."""

    @lru_cache(maxsize=64)
    def reading(node: Any) -> Reading:
        return Reading(MODEL, node if isinstance(node, PromptServer) else read(node))

    return reading
