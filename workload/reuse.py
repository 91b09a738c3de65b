"""How far back a prefix was used last, counted in blocks that were used since: what a cache finds.

vLLM keeps the blocks of requests that have left until their room is needed, and gives up first what
was released first. A request releases its last block first. So the memory is a stack: on top lie
the blocks of the requests that run, below them the others, what was released last the highest. A
block is found as long as the memory reaches down to it. How deep it lies does not depend on how
large the memory is: one pass over the requests tells what memories of every size find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import RequestTable, WorkloadError
from serving.compilation import compiled
from workload.prefixes import Prefixes


@dataclass(frozen=True, slots=True, eq=False)
class Stays:
    """When requests are in memory.

    Parameters
    ----------
    admitted : shape (R,) [time]
        When the prompt is looked up and takes its blocks.
    finished : shape (R,) [time]
        When all blocks are released, not before ``admitted``.
    """

    admitted: NDArray[np.float64]
    finished: NDArray[np.float64]

    @classmethod
    def instant(cls, requests: RequestTable) -> Stays:
        """Return stays without duration: each request comes and goes before the next."""
        order = np.arange(len(requests), dtype=float)
        return cls(order, order)


@dataclass(frozen=True, slots=True, eq=False)
class HitCurve:
    """What a prefix cache finds, by the size of the memory.

    Parameters
    ----------
    size : shape (K,) [blocks]
        Sizes of all KV memory in increasing order, between which the number of hits is a line.
    found : shape (K,) [blocks]
        Blocks found at each of them; larger memories find as many as the last.
    block_size : [tokens]
    prompt_tokens : [tokens]
        All tokens of the prompts.
    held : [blocks]
        Blocks of running requests: the mean over time.
    most_held : [blocks]
        The most of them at an admission.
    """

    size: NDArray[np.float64]
    found: NDArray[np.float64]
    block_size: int
    prompt_tokens: float
    held: float
    most_held: float

    def hit_share(self, blocks: ArrayLike) -> NDArray[np.float64]:
        """Return the share of the prompt tokens that a memory of so many blocks finds."""
        found = np.interp(np.asarray(blocks, float), self.size, self.found)
        return found * self.block_size / self.prompt_tokens

    @property
    def most(self) -> float:
        """Share of the prompt tokens that an endless memory finds."""
        return float(self.found[-1]) * self.block_size / self.prompt_tokens

    def blocks_for(self, hit_share: float) -> float:
        """Return the least memory [blocks] that finds a share; infinite where none does."""
        wanted = hit_share * self.prompt_tokens / self.block_size
        if wanted > self.found[-1] * (1 + 1e-12):
            return float("inf")
        at = min(int(np.searchsorted(self.found, wanted)), self.found.size - 1)
        if at == 0:
            return float(self.size[0])
        part = (wanted - self.found[at - 1]) / (self.found[at] - self.found[at - 1])
        return float(self.size[at - 1] + min(part, 1.0) * (self.size[at] - self.size[at - 1]))


def hit_curve(
    requests: RequestTable,
    prefixes: Prefixes,
    stays: Stays | None = None,
    counted: NDArray[np.bool_] | None = None,
) -> HitCurve:
    """Return what memories of every size find.

    Parameters
    ----------
    requests
        In order of arrival.
    prefixes
        Their tree, from :func:`workload.prefixes_of`.
    stays
        When they are in memory; without, each comes and goes before the next.
    counted : shape (R,)
        Whose prompts are counted; all, where not given. The others use the memory too.

    Raises
    ------
    WorkloadError
        If a stay is missing, or ends before it begins.

    Notes
    -----
    Exact for a memory that holds all running requests and preempts nobody, but for three things.
    A block counts as cached from the admission of its request on, though vLLM caches it when its
    chunk is computed. Two requests that compute the same block at the same time hold it once here.
    And a request holds half of its answer while it runs, as it does on average.
    """
    stays = Stays.instant(requests) if stays is None else stays
    for name in ("admitted", "finished"):
        times = getattr(stays, name)
        if times.shape != (len(requests),) or not np.isfinite(times).all():
            raise WorkloadError(f"allowed: a finite time of each of {len(requests)} requests",
                                column=name)  # fmt: skip
    if (stays.finished < stays.admitted).any():
        raise WorkloadError("allowed: not before admitted", column="finished")
    counts = np.ones(len(requests), np.bool_) if counted is None else counted
    size = prefixes.block_size
    answer = (requests.prefill_length % size + requests.decode_length) / size
    base, width, held, most = _depths(
        prefixes.first, prefixes.piece, prefixes.looked_up, prefixes.prompt, prefixes.blocks,
        answer, counts, stays.admitted, stays.finished,
        np.argsort(stays.admitted, kind="stable"), np.argsort(stays.finished, kind="stable"),
    )  # fmt: skip
    corners, found = _curve(base, width)
    prompts = float(requests.prefill_length[counts].sum())
    return HitCurve(corners, found, size, prompts, held, most)


def _curve(base: NDArray, width: NDArray) -> tuple[NDArray, NDArray]:
    """Return the corners of ``sum(clip(size - base, 0, width))``."""
    at = np.concatenate([[0.0], base, base + width])
    slope = np.concatenate([[0.0], np.ones(base.size), -np.ones(base.size)])
    order = np.argsort(at, kind="stable")
    at, slope = at[order], np.cumsum(slope[order])
    found = np.concatenate([[0.0], np.cumsum(np.diff(at) * slope[:-1])])
    last = np.append(np.diff(at) > 0, True)
    return at[last], found[last]


@compiled
def _depths(
    first, piece, looked_up, prompt, blocks, answer, counts, admitted, finished, entering, leaving
):
    """Return the memory above each piece that is looked up and was used before, and its length.

    Also the blocks held on average over time, and at most.
    """
    requests, uses = admitted.size, piece.size
    place, users = np.zeros(blocks.size, np.int64), np.zeros(blocks.size, np.int32)
    tree = np.zeros(uses + 1, np.int64)
    base, width, hits = np.empty(uses), np.empty(uses), 0
    top, stacked, held, growing = 0, 0, 0, 0.0
    is_in = np.zeros(requests, np.bool_)
    begun = admitted[entering[0]]
    area, most, now = 0.0, 0.0, begun
    came, left = 0, 0
    while left < requests:
        first_out = leaving[left]
        comes = came < requests and not (
            is_in[first_out] and finished[first_out] <= admitted[entering[came]]
        )
        r = entering[came] if comes else first_out
        t = admitted[r] if comes else finished[r]
        area += (held + growing) * (t - now)
        now = t
        if comes:
            came += 1
            is_in[r] = True
            for u in range(first[r], first[r] + looked_up[r] * counts[r]):
                p = piece[u]
                if users[p] == 0 and place[p] == 0:
                    break
                base[hits], width[hits] = 0.0, blocks[p]
                if users[p] == 0:
                    base[hits] = held + growing + stacked - _up_to(tree, place[p])
                hits += 1
            for u in range(first[r], first[r] + prompt[r]):
                p = piece[u]
                if users[p] == 0:
                    held += blocks[p]
                    stacked -= _taken(tree, place, blocks, p)
                users[p] += 1
            growing += answer[r] / 2
            most = max(most, held + growing)
        else:
            left += 1
            growing -= answer[r] / 2
            for u in range(first[r + 1] - 1, first[r] - 1, -1):
                p = piece[u]
                if u - first[r] < prompt[r]:
                    users[p] -= 1
                    if users[p] == 0:
                        held -= blocks[p]
                if users[p] == 0:
                    stacked -= _taken(tree, place, blocks, p)
                    top += 1
                    place[p] = top
                    _add(tree, top, blocks[p])
                    stacked += blocks[p]
    lasts = now - begun
    return base[:hits].copy(), width[:hits].copy(), area / lasts if lasts > 0 else 0.0, most


@compiled
def _taken(tree, place, blocks, piece):
    """Take a piece out of the stack; return its blocks, or 0 where it is not there."""
    if place[piece] == 0:
        return 0
    _add(tree, place[piece], -blocks[piece])
    place[piece] = 0
    return blocks[piece]


@compiled
def _up_to(tree, place):
    """Return the blocks at places up to ``place`` of a Fenwick tree."""
    total = 0
    while place > 0:
        total += tree[place]
        place -= place & -place
    return total


@compiled
def _add(tree, place, blocks):
    """Add blocks at a place of a Fenwick tree."""
    while place < tree.size:
        tree[place] += blocks
        place += place & -place
