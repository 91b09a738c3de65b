"""Whether a full server that computes its own prompts keeps its equilibrium, or swings.

A server with a backlog starts in every step as many requests as the limit allows that fills it.
``c_m`` is what a request takes of it m steps after its start, on average over the mix, and ``a_n``
is how many start in step n. ``sum_m c_m a_{n-m}`` is that limit, so that deviations from the
equilibrium go like ``z^n`` at the roots of ``sum_m c_m z^-m``: those of a decode node
(:mod:`fluid._survival_polynomial`), with other c.

- KV: the tokens of the blocks that a request holds. They grow with it, and push roots outwards.
- Seats: 1 as long as the request has its seat, so that c never grows and no root is beyond 1. One
  is at 1 where all lives are multiples of one number of steps (Enestrom and Kakeya): who starts
  together then ends and starts together for good. A scheduler that decides a step ahead gives a
  seat back a step late: lives are answers and one more.
- Tokens of a step: the prompt, then one per step. A prompt of more than a token makes the first one
  the largest, and the equilibrium stable for all lengths.

Where prompts have steps of their own, c begins with the first decode, since whoever ends before it
never meets those who decode.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from fluid._certificate import Certificate
from fluid._survival_polynomial import largest_root
from fluid.prompt_server.life import BLOCKS, DECODES, SEATS, Life, life
from fluid.prompt_server.saturation import KV_BLOCKS, most_entering
from serving import RequestMix, UnsupportedError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

NEUTRAL = 1e-9
"""Distance of a root from 1 within which deviations neither grow nor decay."""

NOBODY = 1e-12
"""Share of the requests that counts as none."""

SLOW = 1000
"""Steps in which a swing halves from which the verdict names them."""

FEW = 0.05
"""Share of the requests that may have prompts of several steps, which the recursion leaves out."""


@answers(MODEL)
@lru_cache(maxsize=64)
def certificate(mix: RequestMix, instance: PromptServer) -> Certificate:
    """Return the certificate of a full server, see :func:`fluid.certificate`.

    It holds for large servers and small deviations, whatever the arrival rate and the batch-time
    law: steps are counted, not timed.

    Raises
    ------
    UnsupportedError
        Where prompts take several steps.
    """
    each, limits = life(mix, instance), most_entering(mix, instance)
    binds = min(limits, key=lambda name: limits[name])
    _refuse_long_prompts(mix, instance, each, binds, limits[binds])
    root = abs(largest_root(_taken(each, instance, binds)))
    stable = root < 1 - NEUTRAL
    words = _calms(root) if stable else _swings(mix, instance, root, binds)
    if instance.keeps_prefixes and each.prompt.known > 0:
        words += "; taken as if requests shared no blocks"
    return Certificate(
        stable=stable,
        max_root=root,
        ode_blind=False,
        cycle_loss=0.0 if stable else None,
        theta_sac=None,
        memory_binds=binds == KV_BLOCKS,
        message=f"{words}; {binds} fills first",
    )


def _taken(each: Life, server: PromptServer, binds: str) -> NDArray[np.float64]:
    """Return what a request takes of the limit that binds, by steps since its start."""
    if binds == KV_BLOCKS:
        taken = each.lanes[BLOCKS]
    elif binds == "max_num_seqs":
        taken = each.lanes[SEATS]
    else:
        taken = each.lanes[DECODES].copy()
        taken[0] = each.prompt.tokens
    if server.prompts_apart:
        taken = taken[1:]
    there = np.flatnonzero(taken > NOBODY * taken.max())
    return taken[: there[-1] + 1] if there.size else np.ones(1)


def _refuse_long_prompts(
    mix: RequestMix, server: PromptServer, each: Life, binds: str, entering: float
) -> None:
    own = each.prompt.tokens / max(each.prompt.context, 1e-300) * mix.prefill
    left = float(server.step_tokens)
    if binds in (KV_BLOCKS, "max_num_seqs") and not server.prompts_apart:
        left -= entering * each.decodes
    several = float(mix.probability[own > left].sum())
    if several > FEW:
        raise UnsupportedError(
            f"{several:.0%} of the prompts take several steps of {server.step_tokens} tokens, and "
            "hold more and more KV in them, which the recursion does not know"
        )


def _calms(root: float) -> str:
    """Say that swings die out, and how slowly where that takes long."""
    halves = np.log(0.5) / np.log(root) if root > 0 else 0.0
    return "stable" if halves < SLOW else f"stable, but a swing takes {halves:,.0f} steps to halve"


def _swings(mix: RequestMix, server: PromptServer, root: float, binds: str) -> str:
    if root > 1 + NEUTRAL:
        return (
            "limit cycle: requests start and end in step, and a swing grows "
            f"{root:.4f}-fold per step until the KV overflows; preempted requests compute their "
            "tokens again, a loss without a closed form: simulate from a backlog to see it"
        )
    words = "limit cycle: requests that start together stay in step, and no swing decays"
    if binds != "max_num_seqs":
        return words
    lives = np.unique(mix.decode[mix.probability > 0])
    lives = lives + int(server.is_ahead) - int(server.prompts_apart)
    common = gcd(*(int(each) for each in lives[lives > 0]))
    return f"{words}: all have their seats for multiples of {common} steps"
