"""Draw conversations whose clients wait for the answers that an engine gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving import Contents, RequestTable
from workload.conversations import Conversations
from workload.lengths import picked


def drawn_waiting(
    talk: Conversations,
    starts: NDArray[np.float64] | None,
    seeds: Sequence[np.random.SeedSequence],
    num_requests: int,
) -> RequestTable:
    """Return the turns of conversations, each sent when the answer before was thought about.

    Parameters
    ----------
    talk
        What is said, and how long clients think.
    starts : [time]
        When each conversation begins, in order. None where ``talk.clients`` have one conversation
        after another: each client thinks before it begins, also before the first.
    seeds
        Three: of lengths, of times to think, of system prompts.
    num_requests
        Turns in all; the last conversation may be short of some.
    """
    said, thinking, choosing = (np.random.Generator(np.random.PCG64(seed)) for seed in seeds)
    number = np.arange(num_requests)
    conversation, turn = np.divmod(number, talk.turns)
    mix = talk.turn_mix
    atom = picked(mix.probability, said.random(num_requests))
    think = thinking.exponential(1.0, num_requests) * (talk.think_time or 0.0)
    if starts is None:
        session = conversation % (talk.clients or 1)
        begins = (turn == 0) & (conversation < (talk.clients or 1))
        start = think[begins][session]
        think[begins] = 0.0
    else:
        session, start = conversation, starts[conversation]
        think[turn == 0] = 0.0
    system = np.zeros(conversation[-1] + 1, np.int64)
    if talk.system_prompts:
        system = choosing.integers(1, talk.system_prompts + 1, system.size)
    spoken, answered = mix.prefill[atom].astype(np.int64), mix.decode[atom].astype(np.int64)
    contents = _contents(talk, turn, system[conversation], spoken, answered)
    prompt = np.add.reduceat(contents.piece_length, contents.first[:-1])
    return RequestTable.validated(
        start, prompt, answered, request_class=mix.request_class[atom], session=session,
        think_time=think, contents=contents,
    )  # fmt: skip


def _contents(
    talk: Conversations,
    turn: NDArray[np.int64],
    system: NDArray[np.int64],
    spoken: NDArray[np.int64],
    answered: NDArray[np.int64],
) -> Contents:
    """Return prompts that repeat the system prompt and all that was said before, and answers."""
    first, lead = 1 + (talk.system_prompts or 0), int(bool(talk.system_prompts))
    number = np.arange(turn.size)
    pieces = lead + 2 * turn + 1
    ends = np.concatenate(([0], np.cumsum(pieces)))
    row = np.repeat(number, pieces)
    place = np.arange(row.size) - ends[row] - lead
    # piece 2k is what the client says in turn k, piece 2k + 1 the answer to it
    source = row - turn[row] + np.maximum(place, 0) // 2
    is_answer = place % 2 == 1
    ids = first + 2 * source + is_answer
    lengths = np.where(is_answer, answered[source], spoken[source])
    is_system = place < 0
    ids[is_system] = system[row[is_system]]
    lengths[is_system] = talk.system_prompt_length or 0
    return Contents.validated(ends, ids, lengths, first + 2 * number + 1)
