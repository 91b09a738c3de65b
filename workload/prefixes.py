"""The tree of prefixes that requests share, in pieces that are always used together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import RequestTable
from serving.arguments import checked
from serving.chains import NOBODY, chains
from serving.compilation import compiled


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Which KV blocks requests use, and which of them are the same.

    A piece is a row of blocks such that whoever uses one of them uses all, so that a long prompt is
    few pieces. Build it with :func:`prefixes_of`.

    Parameters
    ----------
    block_size : [tokens]
    first : shape (R + 1,)
        Request r uses the pieces ``piece[first[r]:first[r + 1]]``, the beginning of its prompt
        first.
    piece : shape (U,)
        Number of a piece, from 0 on, in the order in which they are first met.
    looked_up : shape (R,) [pieces]
        How many of them a prefix cache looks up: one token of a prompt is always computed.
    prompt : shape (R,) [pieces]
        How many of them the prompt fills; the rest come with the answer.
    blocks : shape (S,) [blocks]
        Length of each piece.
    """

    block_size: int
    first: NDArray[np.int64]
    piece: NDArray[np.int32]
    looked_up: NDArray[np.int64]
    prompt: NDArray[np.int64]
    blocks: NDArray[np.int64]


@checked(block_size=">= 1")
def prefixes_of(
    requests: RequestTable, block_size: int = 16, *, stop_token: bool = True
) -> Prefixes:
    """Return the tree of prefixes of requests.

    Parameters
    ----------
    requests
        What they consist of is in their ``contents``; without, nobody shares a block.
    block_size : [tokens]
        Only full blocks can be shared.
    stop_token
        Whether the last token of an answer is the stop token, the same for all.

    Raises
    ------
    FluidServeError
        If there are more blocks than 32 bits can number.
    """
    prompt = requests.prefill_length
    named = chains(
        prompt, requests.decode_length, requests.contents, block_size, stop_token=stop_token
    )
    cuts = np.stack([(prompt - 1) // block_size, prompt // block_size], axis=1)
    number, blocks, size = _pieces(named.start, named.ids, named.count, cuts)
    piece = np.empty(size, np.int32)
    first, looked_up, filled = _used(named.start, named.ids, number, cuts, piece)
    return Prefixes(block_size, first, piece, looked_up, filled, blocks)


@compiled
def _pieces(start, ids, count, cuts):
    """Return the piece of each distinct block, the lengths of pieces, and how many uses there are.

    A piece begins where a request is cut, and where the block before it has other users too.
    """
    users, parent = np.zeros(count, np.int32), np.full(count, NOBODY, np.int32)
    begins = np.zeros(count, np.bool_)
    for r in range(start.size - 1):
        before = NOBODY
        for position in range(start[r], start[r + 1]):
            block = ids[position]
            users[block] += 1
            parent[block] = before
            before = block
        for cut in cuts[r]:
            if start[r] + cut < start[r + 1]:
                begins[ids[start[r] + cut]] = True
    number, blocks = np.empty(count, np.int32), np.zeros(count, np.int64)
    pieces, uses = 0, 0
    for block in range(count):  # a block is numbered after those before it
        above = parent[block]
        if above == NOBODY or begins[block] or users[above] != users[block]:
            number[block] = pieces
            pieces += 1
            uses += users[block]
        else:
            number[block] = number[above]
        blocks[number[block]] += 1
    return number, blocks[:pieces].copy(), uses


@compiled
def _used(start, ids, number, cuts, piece):
    """Write the pieces of each request; return where they begin, and how many a prompt has."""
    size = start.size - 1
    first, at = np.zeros(size + 1, np.int64), 0
    within = np.zeros((2, size), np.int64)
    for r in range(size):
        before = NOBODY
        for position in range(start[r], start[r + 1]):
            here = number[ids[position]]
            if here != before:
                piece[at] = here
                for k in range(2):
                    within[k, r] += position - start[r] < cuts[r, k]
                at += 1
                before = here
        first[r + 1] = at
    return first, within[0], within[1]
