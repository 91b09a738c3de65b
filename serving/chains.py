"""Number the prefixes of requests: equal numbers where everything up to a block's end is equal.

A prefix cache finds a block by its tokens and by those of all blocks before it. Here each distinct
such prefix gets a number before the run, so that no token is looked at during it. The numbers are
exact, not hashes: they count the nodes of a tree.

In the tree a request is a way from the root. The way is cut at the end of each block and of each
run; a run is as many tokens of one content as follow each other. One step says which content goes
on, from which of its tokens, and how far. A step that does not fill a block ends at a node inside
the block. Requests that agree on a prefix cut it at the same places, since a content that begins
or breaks off is seen from the tokens alone. So they reach the same node.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.compilation import compiled
from serving.contents import Contents
from serving.errors import FluidServeError

STOP, UNKNOWN = 0, 1
"""Numbers of the contents that every request shares: the stop token, and answers nobody knows."""

FIRST_KNOWN = 2
"""Number of the first content that has an id; contents of one request alone are below 0."""

NOBODY = -1
MOST = 2**31 - 2
"""Blocks, requests and tokens of a request that 32 bits can number."""


class Chains(NamedTuple):
    """Prefix numbers of the full blocks of R requests.

    Parameters
    ----------
    start : shape (R + 1,)
        The k-th block of request r has the number ``ids[start[r] + k]``.
    ids : shape (blocks,)
        From 0 on, without a gap, in the order in which they are first met. So the numbers of a
        request do not depend on the requests after it.
    count
        Distinct numbers.
    """

    start: NDArray[np.int64]
    ids: NDArray[np.int32]
    count: int


def chains(
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    contents: Contents | None,
    block_size: int,
    *,
    stop_token: bool,
    ahead: int = 0,
) -> Chains:
    """Number the prefixes that end with a full block.

    Parameters
    ----------
    prompt, output : shape (R,) [tokens]
        Lengths of prompt and answer, >= 1.
    contents
        What they consist of; where None, no two prompts share a token.
    block_size : [tokens]
    stop_token
        Whether the last token of an answer is the stop token, the same for all, rather than one of
        its content.
    ahead : [tokens]
        0, or 1 where the token after a block belongs to the block's key too (speculation with
        EAGLE). The last block has no key until that token exists.

    Raises
    ------
    FluidServeError
        If there are more blocks than 32 bits can number.
    """
    length = prompt + output
    blocks = (length - ahead) // block_size
    start = np.concatenate(([0], np.cumsum(blocks)))
    known = Contents.none(prompt.size) if contents is None else contents
    runs = known.piece_id.size + 3 * prompt.size
    nodes = int(start[-1]) * (1 + ahead) + runs + 1
    if max(nodes, int(length.max(initial=0))) > MOST:
        raise FluidServeError(
            f"{start[-1]} blocks of {block_size} tokens; allowed: up to {MOST} blocks"
        )
    if contents is None:  # no two requests share a token, so that every prefix is a new one
        return Chains(start, np.arange(start[-1], dtype=np.int32), int(start[-1]))
    content, answer = _dense(known)
    ids, count = _number(
        start, prompt, output, known.first, content, known.piece_length, answer,
        block_size, stop_token, ahead, nodes,
    )  # fmt: skip
    return Chains(start, ids, int(count))


def _dense(contents: Contents) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the contents of pieces and answers by small numbers."""
    every, number = np.unique(
        np.concatenate([contents.piece_id, contents.answer]), return_inverse=True
    )
    small = (number + FIRST_KNOWN).astype(np.int32)
    if every.size and every[0] == 0:
        small[number == 0] = UNKNOWN
    return small[: contents.piece_id.size], small[contents.piece_id.size :]


@compiled
def _number(start, prompt, output, first, piece, piece_length, answer, block, stop, ahead, most):
    """Return the number of every block, shape (blocks,), and how many there are.

    Each node knows the first step taken from it, and most steps are that one again or new. The
    others are in a table with open addressing.
    """
    ids = np.empty(start[-1], np.int32)
    content, begin = np.empty(most, np.int32), np.empty(most, np.int32)
    length, number = np.empty(most, np.int32), np.empty(most, np.int32)
    parent, child = np.empty(most, np.int32), np.empty(most, np.int32)
    table, stored = np.full(1024, NOBODY, np.int32), 0
    child[0] = NOBODY
    nodes, count = 1, 0
    longest = 0
    for r in range(prompt.size):
        longest = max(longest, first[r + 1] - first[r])
    run, run_length = np.empty(longest + 3, np.int32), np.empty(longest + 3, np.int64)
    for r in range(prompt.size):
        _runs(run, run_length, r, prompt, output, first, piece, piece_length, answer, stop)
        at, j, node = 0, 0, 0
        for position in range(start[r], start[r + 1]):
            filled, seen = 0, 0
            while filled < block or seen < ahead:
                if j == run_length[at]:
                    at, j = at + 1, 0
                c, b, n = run[at], 0, 0
                if c >= FIRST_KNOWN:
                    b = j
                if filled < block:
                    n = min(block - filled, run_length[at] - j)
                    filled += n
                    j += n
                else:
                    seen += 1  # a step of length 0 looks at the token after the block
                reached = child[node]
                if reached == NOBODY:
                    child[node] = nodes
                elif content[reached] != c or begin[reached] != b or length[reached] != n:
                    if 2 * stored >= table.size:
                        table = _larger(table, parent, content, begin, length)
                    slot = _slot(table, parent, content, begin, length, node, c, b, n)
                    reached = table[slot]
                    if reached == NOBODY:
                        table[slot] = nodes
                        stored += 1
                if reached == NOBODY:
                    reached = nodes
                    content[nodes], begin[nodes], length[nodes] = c, b, n
                    parent[nodes], child[nodes], number[nodes] = node, NOBODY, NOBODY
                    nodes += 1
                node = reached
            if number[node] == NOBODY:
                number[node] = count
                count += 1
            ids[position] = number[node]
    return ids, count


@compiled
def _runs(run, run_length, r, prompt, output, first, piece, piece_length, answer, stop):
    """Write contents and lengths of the runs of request ``r``."""
    k, left = 0, prompt[r]
    for at in range(first[r], first[r + 1]):
        if left > 0:
            run[k], run_length[k] = piece[at], min(left, piece_length[at])
            left -= run_length[k]
            k += 1
    if left > 0:
        run[k], run_length[k] = -1 - r, left
        k += 1
    if output[r] > stop:
        run[k], run_length[k] = answer[r], output[r] - stop
        k += 1
    if stop:
        run[k], run_length[k] = STOP, 1


@compiled
def _slot(table, parent, content, begin, length, node, c, b, n):
    """Return where a step is in the table, or the empty place where it belongs."""
    mask = np.uint64(table.size - 1)
    mixed = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= np.uint64(np.int64(c) + 2**31) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= (np.uint64(b) << np.uint64(20)) ^ np.uint64(n)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    slot = (mixed ^ (mixed >> np.uint64(31))) & mask
    while True:
        held = table[slot]
        if held == NOBODY or (
            parent[held] == node and content[held] == c and begin[held] == b and length[held] == n
        ):
            return slot
        slot = (slot + np.uint64(1)) & mask


@compiled
def _larger(table, parent, content, begin, length):
    """Return a table twice as large that holds the same steps."""
    larger = np.full(2 * table.size, NOBODY, np.int32)
    for held in table:
        if held != NOBODY:
            slot = _slot(
                larger, parent, content, begin, length,
                parent[held], content[held], begin[held], length[held],
            )  # fmt: skip
            larger[slot] = held
    return larger
