"""What a request takes of a step at each stage of its life, averaged over the mix.

A request of p prompt tokens and D answer tokens computes its prompt in one step, which gives its
first token, and then one token in each of D - 1 steps. At age a it has a tokens; the step that it
is in then computes one token of it, holds the KV of p + a tokens rounded up to blocks, and reads as
many. Nothing tells the length in advance, so at age a all those are there with D > a.

A scheduler that decides one step ahead learns one step late that a request has ended. Until then
the request keeps its seat and its blocks, and where nobody knows the end in advance it computes a
token too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server.lumps import scatter_of
from serving import RequestMix
from serving.kinds.prompt_server import PromptServer

ALIVE, DECODES, CONTEXT, SEATS, BLOCKS = range(5)
"""Rows of :attr:`Life.lanes`."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What the prompt of one request takes of the step that computes it, as means over requests.

    Parameters
    ----------
    tokens : [tokens]
        Computed: what the prefix cache does not have.
    attention : [tokens^2]
        Pairs of a computed token and a token that it attends.
    known : [tokens]
        Found in the prefix cache.
    context : [tokens]
        KV after the step.
    held : [tokens]
        KV that its blocks hold.
    """

    tokens: float
    attention: float
    known: float
    context: float
    held: float


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """A request's life, per request that arrives.

    Parameters
    ----------
    prompt
        The step that computes the prompt.
    lanes : shape (5, A)
        By age 0..A - 1. ALIVE: share with D > age. DECODES: share that computes a token. CONTEXT:
        KV that these read [tokens]. SEATS: share that the scheduler counts as running. BLOCKS: KV
        that their blocks hold [tokens]. At age 0 CONTEXT and BLOCKS are those of the prompt, and
        the last column is zero.
    again : shape (2, A) [tokens]
        KV and blocks of those with D > age, for who starts again at an age.
    scatter
        How the prompt tokens of a step scatter, see :func:`fluid.prompt_server.lumps.scatter_of`;
        None where only their mean matters.
    """

    prompt: Prompt
    lanes: NDArray[np.float64]
    again: NDArray[np.float64]
    scatter: NDArray[np.float64] | None = None

    @property
    def decodes(self) -> float:
        """Tokens that a request computes after its prompt, the one too many included [tokens]."""
        return float(self.lanes[DECODES, 1:].sum())

    @property
    def context(self) -> float:
        """KV that a request reads in all its steps, summed [token-steps]."""
        return float(self.lanes[CONTEXT, 1:].sum()) + self.prompt.context

    @property
    def stay(self) -> float:
        """Steps for which a request has a seat [steps]."""
        return float(self.lanes[SEATS].sum())

    @property
    def held(self) -> float:
        """KV that a request's blocks hold in all its steps, summed [token-steps]."""
        return float(self.lanes[BLOCKS].sum())


@lru_cache(maxsize=32)
def life(mix: RequestMix, instance: PromptServer) -> Life:
    """Return the life of a request of ``mix`` on a server."""
    p, share = mix.prefill, mix.probability
    size = instance.block_size
    known = _hit_share(mix, instance) * p
    own = p - known
    alive = _tail(mix, share)
    age = np.arange(alive.size, dtype=float)
    kv = _tail(mix, share * p) + age * alive
    blocks = kv + _padding(mix, size, late=0)
    if instance.is_ahead:
        seats = np.append(1.0, alive[:-1])
        if instance.ends_unknown:
            late_kv = _late(_tail(mix, share * p)) + age * seats
            decodes, read, held = seats, late_kv, late_kv + _padding(mix, size, late=1)
        else:
            decodes, read, held = alive, kv, blocks + _ended(mix, size)
    else:
        seats, decodes, read, held = alive, alive, kv, blocks
    lanes = np.array([alive, decodes, read, seats, held])
    lanes[DECODES, 0] = 0.0  # the prompt's own step is priced apart
    prompt = Prompt(
        tokens=float(share @ own),
        attention=float(share @ (own * (known + (own + 1) / 2))),
        known=float(share @ known),
        context=float(share @ p),
        held=float(held[0]),
    )
    scatter = scatter_of(own, share) if instance.batch_time.bends_in_prompts else None
    return Life(prompt, np.ascontiguousarray(lanes), np.array([kv, blocks]), scatter)


def _hit_share(mix: RequestMix, instance: PromptServer) -> NDArray[np.float64]:
    """Return the share of its prompt that each atom of the mix finds in the cache."""
    shares = np.asarray(instance.hit_share, float)
    if shares.size == 1:
        return np.full(len(mix), shares[0])
    return shares[mix.request_class]


def _tail(mix: RequestMix, mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E[mass; D > a] for a = 0..D_max + 1."""
    at = np.bincount(mix.decode, weights=mass, minlength=mix.longest_decode + 1)
    return np.concatenate([np.cumsum(at[:0:-1])[::-1], [0.0, 0.0]])


def _late(tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E[.; D > a - 1] where ``tail`` is E[.; D > a]; at age 0 everybody is there."""
    return np.append(tail[0], tail[:-1])


def _residues(mix: RequestMix, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the prompt's tokens beyond whole blocks: those there are, and which each atom has."""
    beyond = np.ceil(mix.prefill).astype(np.int64) % size
    return np.unique(beyond, return_inverse=True)


def _padding(mix: RequestMix, size: int, *, late: int) -> NDArray[np.float64]:
    """Return the unused KV [tokens] of the blocks of those with D > a - late, by age a."""
    residues, which = _residues(mix, size)
    age = np.arange(mix.longest_decode + 2)
    unused = np.zeros(age.size)
    for number, beyond in enumerate(residues):
        there = _tail(mix, np.where(which == number, mix.probability, 0.0))
        unused += (-(beyond + age) % size) * (_late(there) if late else there)
    return unused


def _ended(mix: RequestMix, size: int) -> NDArray[np.float64]:
    """Return the KV [tokens] of the blocks of those who ended at age a and are not yet let go."""
    last = np.ceil(mix.prefill) + mix.decode - 1
    held = np.ceil(last / size) * size
    return np.bincount(
        mix.decode, weights=mix.probability * held, minlength=mix.longest_decode + 2
    ).astype(float)
