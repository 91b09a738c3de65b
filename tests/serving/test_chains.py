"""Prefix numbers against plain tuples of tokens."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Contents, FluidServeError
from serving.chains import chains
from workload import read_trace

STOP = ("stop",)
UNKNOWN = ("unknown",)

request = st.tuples(
    st.integers(1, 40),  # prompt
    st.integers(1, 20),  # output
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 14)), max_size=5),
    st.integers(0, 4),  # answer
)
conversations = st.lists(request, min_size=1, max_size=14)


def tokens_of(r: int, row, stop_token: bool) -> list[tuple]:
    """Return every token of a request, as the rule of contents says."""
    prompt, output, pieces, answer = row
    out: list[tuple] = [(content, j) for content, length in pieces for j in range(length)]
    out = (out + [("private", r)] * (prompt - len(out)))[:prompt]
    for j in range(output):
        last = stop_token and j == output - 1
        out.append(STOP if last else UNKNOWN if answer == 0 else (answer, j))
    return out


def plain_chains(rows, block_size: int, stop_token: bool, ahead: int) -> list[list[int]]:
    """Return the numbers by a dictionary of all tokens up to each block's end."""
    known: dict[tuple, int] = {}
    out = []
    for r, row in enumerate(rows):
        tokens = tokens_of(r, row, stop_token)
        ends = range(block_size, len(tokens) - ahead + 1, block_size)
        keys = [tuple(tokens[: end + ahead]) for end in ends]
        out.append([known.setdefault(key, len(known)) for key in keys])
    return out


def contents_of(rows) -> Contents:
    pieces = [piece for row in rows for piece in row[2]]
    return Contents.validated(
        np.cumsum([0, *(len(row[2]) for row in rows)]),
        [content for content, _ in pieces],
        [length for _, length in pieces],
        [row[3] for row in rows],
    )


def numbered(rows, contents, block_size: int, stop_token: bool, ahead: int = 0) -> list[list[int]]:
    found = chains(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        contents,
        block_size,
        stop_token=stop_token,
        ahead=ahead,
    )
    assert found.count == np.unique(found.ids).size
    assert found.ids.dtype == np.int32 and found.start[-1] == found.ids.size
    ends = zip(found.start[:-1], found.start[1:], strict=True)
    return [found.ids[begin:end].tolist() for begin, end in ends]


@given(conversations, st.integers(1, 17), st.booleans(), st.integers(0, 1))
def test_equal_numbers_are_equal_prefixes(rows, block_size, stop_token, ahead):
    expected = plain_chains(rows, block_size, stop_token, ahead)
    assert numbered(rows, contents_of(rows), block_size, stop_token, ahead) == expected


@given(conversations, st.integers(1, 17), st.booleans())
def test_without_contents_no_two_requests_share_a_block(rows, block_size, stop_token):
    bare = [(prompt, output, [], 0) for prompt, output, _, _ in rows]
    found = numbered(rows, None, block_size, stop_token)
    assert found == plain_chains(bare, block_size, stop_token, 0)


@given(conversations, conversations, st.integers(1, 17))
def test_numbers_do_not_depend_on_later_requests(rows, later, block_size):
    alone = numbered(rows, contents_of(rows), block_size, True)
    both = [*rows, *later]
    assert numbered(both, contents_of(both), block_size, True)[: len(rows)] == alone


def test_a_turn_repeats_the_answer_but_for_the_stop_token():
    first, second = (16, 17, [(1, 16)], 2), (49, 4, [(1, 16), (2, 17), (3, 16)], 4)
    assert numbered([first, second], contents_of([first, second]), 16, False) == [
        [0, 1], [0, 1, 2],
    ]  # fmt: skip
    assert numbered([first, second], contents_of([first, second]), 11, True) == [
        [0, 1, 2], [0, 1, 3, 4],
    ]  # fmt: skip


def test_many_ways_from_one_node_and_large_ids():
    """The table of further ways grows, and ids are told apart in 64 bits."""
    rng = np.random.default_rng(5)
    ids = rng.integers(1, 2**63 - 1, size=3000, endpoint=True)
    rows = [(4, 1, [(int(one), 4)], 0) for one in (*ids, *ids[::-1])]
    found = numbered(rows, contents_of(rows), 4, True)
    assert found == [[k] for k in (*range(3000), *reversed(range(3000)))]


def test_too_many_blocks_are_refused():
    with pytest.raises(FluidServeError, match="blocks of 1 tokens; allowed: up to"):
        chains(np.array([2**31]), np.array([1]), None, 1, stop_token=True)


@pytest.mark.parametrize("name", ["mooncake_conversation", "mooncake_synthetic"])
def test_a_published_trace_hits_an_infinite_cache_as_its_publisher_says(name):
    """The table counts hits to the token, a cache whole blocks of 512."""
    shared = os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[3] / "shared")
    folder = Path(shared) / "data" / "traces"
    if not (folder / f"{name}.jsonl.gz").exists():
        pytest.skip("the published traces are not on this machine (FLUIDSERVE_SHARED)")
    table = read_trace(folder / f"{name}.jsonl.gz").requests
    found = chains(table.prefill_length, table.decode_length, table.contents, 512, stop_token=True)
    seen: set[int] = set()
    hits = []
    for k, whole in enumerate((table.prefill_length // 512).tolist()):
        ids = found.ids[found.start[k] : found.start[k] + whole].tolist()
        hits.append(next((n for n, each in enumerate(ids) if each not in seen), whole))
        seen.update(ids)
    with (folder / f"{name}.csv").open() as file:
        said = [int(row["cached_prefix_tokens_inf"]) // 512 for row in csv.DictReader(file)]
    assert hits == said


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=9),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 1),
)
def test_requests_without_contents_are_numbered_as_those_that_share_nothing(
    lengths, block, stop_token, ahead
):
    prompt, output = np.array(lengths).T
    short, long = (
        chains(prompt, output, contents, block, stop_token=stop_token, ahead=ahead)
        for contents in (None, Contents.none(prompt.size))
    )
    assert short.count == long.count and np.array_equal(short.start, long.start)
    assert short.ids.dtype == long.ids.dtype and np.array_equal(short.ids, long.ids)
