"""What a prefix cache finds, against a list of blocks, a formula and the engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from serving import Contents, RequestTable, WorkloadError
from workload import Stays, hit_curve, prefixes_of

request = st.tuples(
    st.integers(1, 12),  # prompt
    st.integers(1, 3),  # half of the answer
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), max_size=3),  # shared contents
    st.integers(0, 8),  # how many others come while it stays
    st.none() | st.integers(0, 12),  # whose conversation it continues
)


def conversation(rows) -> tuple[RequestTable, list[list[tuple]], list[tuple]]:
    """Return requests, all their tokens, and the tokens of their prompts."""
    pieces, tokens, prompts, prefill, decode = [], [], [], [], []
    for r, (prompt, half, own, _, before) in enumerate(rows):
        said = list(own)
        if before is not None and before < r:
            said = [*pieces[before], (100 + before, decode[before]), *own]
            prompt += sum(length for _, length in said[: -len(own) or None])
        text = [(content, j) for content, length in said for j in range(length)][:prompt]
        text += [("alone", r, j) for j in range(prompt - len(text))]
        pieces.append(said)
        prefill.append(prompt)
        decode.append(2 * half)
        prompts.append(tuple(text))
        tokens.append(text + [(100 + r, j) for j in range(2 * half)])
    contents = Contents.validated(
        np.cumsum([0, *map(len, pieces)]),
        [content for row in pieces for content, _ in row],
        [length for row in pieces for _, length in row],
        100 + np.arange(len(rows)),
    )
    table = RequestTable.validated(np.arange(len(rows)), prefill, decode, contents=contents)
    return table, tokens, prompts


def found_by_a_list(tokens, prompts, block: int, memory: int, events, grows: bool) -> float | None:
    """Return the blocks that a memory finds which keeps a list of what it can give up.

    An event is a request, and whether it comes. None where memory cannot hold those that run.
    """
    ways = [[tuple(row[:end]) for end in range(block, len(row) + 1, block)] for row in tokens]
    idle: list[tuple] = []
    users: dict[tuple, int] = {}
    growing, found = 0.0, 0
    for r, comes in events:
        prompt = ways[r][: len(prompts[r]) // block]
        half = (len(tokens[r]) - len(prompt) * block) / block / 2 if grows else 0.0
        if comes:
            for key in prompt[: (len(prompts[r]) - 1) // block]:
                if key not in idle and key not in users:
                    break
                found += 1
            for key in prompt:
                if key in idle:
                    idle.remove(key)
                users[key] = users.get(key, 0) + 1
            growing += half
        else:
            growing -= half
            for key in prompt:
                users[key] -= 1
            for key in reversed(ways[r]):
                if users.get(key, 0) == 0:
                    users.pop(key, None)
                    if key in idle:
                        idle.remove(key)
                    idle.append(key)
        if len(users) + growing > memory:
            return None
        while len(users) + len(idle) + growing > memory:
            idle.pop(0)
    return found


@given(st.lists(request, min_size=1, max_size=13), st.integers(0, 60))
def test_a_list_of_blocks_finds_as_much_while_requests_run(rows, more) -> None:
    table, tokens, prompts = conversation(rows)
    at = 2.0 * np.arange(len(rows))
    stays = Stays(at, at + 1 + 2 * np.array([row[3] for row in rows]))
    curve = hit_curve(table, prefixes_of(table, 1, stop_token=False), stays)
    memory = int(np.ceil(curve.most_held)) + more
    moments = [(t, r, True) for r, t in enumerate(stays.admitted)]
    moments += [(t, r, False) for r, t in enumerate(stays.finished)]
    events = [(r, comes) for _, r, comes in sorted(moments)]
    by_list = found_by_a_list(tokens, prompts, 1, memory, events, grows=True)
    assume(by_list is not None)
    share = by_list / sum(map(len, prompts))
    assert curve.hit_share(memory) == pytest.approx(share, abs=1e-12)


@given(st.lists(request, min_size=1, max_size=13), st.integers(1, 5), st.integers(0, 60))
def test_a_list_of_blocks_finds_as_much_one_by_one(rows, block, more) -> None:
    table, tokens, prompts = conversation(rows)
    curve = hit_curve(table, prefixes_of(table, block, stop_token=False))
    memory = int(np.ceil(curve.most_held)) + 1 + more
    events = [(r, comes) for r in range(len(rows)) for comes in (True, False)]
    by_list = found_by_a_list(tokens, prompts, block, memory, events, grows=False)
    assert by_list is not None
    share = by_list * block / sum(map(len, prompts))
    assert float(curve.hit_share(memory)) == pytest.approx(share, abs=1e-12)


def test_independent_references_follow_the_characteristic_time() -> None:
    """Che: a content is there if it was used within T, and T is such that they fill the memory."""
    kinds, blocks, draws, memory = 400, 4, 60_000, 600
    chance = 1 / np.arange(1, kinds + 1)
    chance /= chance.sum()
    rng = np.random.default_rng(5)
    which = rng.choice(kinds, draws, p=chance)
    table = RequestTable.validated(
        np.arange(draws), np.full(draws, blocks + 1), np.ones(draws, int),
        contents=Contents.validated(np.arange(draws + 1), 1 + which, np.full(draws, blocks)),
    )  # fmt: skip
    curve = hit_curve(table, prefixes_of(table, 1, stop_token=False))
    # a request leaves two more blocks, of its own
    kept = lambda T: (blocks * -np.expm1(-chance * T)).sum() + 2 * T - memory  # noqa: E731
    T = brentq(kept, 1e-3, memory)
    expected = blocks / (blocks + 1) * chance @ -np.expm1(-chance * T)
    error = 4 * np.sqrt(0.25 / draws) + 0.005  # of the draw, and of the formula
    assert float(curve.hit_share(memory)) == pytest.approx(expected, abs=error)
    assert curve.blocks_for(float(curve.hit_share(memory))) == pytest.approx(memory, rel=1e-6)


def test_requests_that_share_nothing_find_nothing() -> None:
    table = RequestTable.validated([0, 1], [100, 100], [5, 5])
    curve = hit_curve(table, prefixes_of(table))
    assert curve.most == 0
    assert curve.hit_share([10, 1000]).tolist() == [0, 0]
    assert curve.blocks_for(0.1) == np.inf


def test_stays_that_are_none_are_refused() -> None:
    table = RequestTable.validated([0, 1], [100, 100], [5, 5])
    prefixes = prefixes_of(table)
    for admitted, finished in (([0, 1], [1, np.nan]), ([0, 1], [1, 0.5]), ([0], [1])):
        with pytest.raises(WorkloadError, match="allowed"):
            hit_curve(table, prefixes, Stays(np.array(admitted, float), np.array(finished, float)))
