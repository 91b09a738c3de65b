"""What the batches of a server have computed of the prompts that wait there, and of whose."""

from __future__ import annotations

from collections.abc import Iterable


def left_of_begun(prompts: Iterable[int], computed: float) -> float:
    """Return what is left of the prompt that was begun and not ended [tokens].

    Parameters
    ----------
    prompts : [tokens]
        Of those who wait, in their order.
    computed : [tokens]
        What was computed of them, in their order; 0 is left where it ends with a prompt.
    """
    end = 0.0
    for prompt in prompts:
        if end >= computed:
            return 0.0
        end += prompt
        if end > computed:
            return end - computed
    return 0.0


def without(prompts: Iterable[tuple[int, float]], computed: float, request_id: int) -> float:
    """Return what was computed [tokens] once a request has lost what was computed of it.

    Parameters
    ----------
    prompts : [tokens]
        Of those who wait, with their ids, in their order. Who comes after the one that loses its
        part has none.
    computed : [tokens]
        What was computed of them before.
    request_id
        Of the request.
    """
    before = 0.0
    for each, prompt in prompts:
        if each == request_id or before >= computed:
            break
        before += prompt
    return min(computed, before)


def part_of(prompts: Iterable[tuple[int, float]], computed: float, request_id: int) -> float:
    """Return how much of what was computed is of a request [tokens]; 0 where it is none of these.

    Parameters
    ----------
    prompts : [tokens]
        With ids, in their order.
    computed : [tokens]
        What was computed of them, in their order.
    """
    before = 0.0
    for each, prompt in prompts:
        if before >= computed:
            break
        if each == request_id:
            return min(prompt, computed - before)
        before += prompt
    return 0.0
