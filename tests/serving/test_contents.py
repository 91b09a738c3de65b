"""Contents of requests: rows are taken and joined with them, and nothing wrong gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discrete import simulate
from serving import Contents, DecodeNode, RequestTable, WorkloadError

piece = st.tuples(st.integers(1, 9), st.integers(1, 40))
request = st.tuples(
    st.floats(0, 9), st.lists(piece, max_size=4), st.integers(0, 9), st.floats(0, 5) | st.none()
)
requests = st.lists(request, min_size=1, max_size=12)


def contents_of(rows) -> Contents:
    pieces = [piece for row in rows for piece in row[1]]
    return Contents.validated(
        np.cumsum([0, *(len(row[1]) for row in rows)]),
        [one for one, _ in pieces],
        [length for _, length in pieces],
        [row[2] for row in rows],
    )


def table_of(rows) -> RequestTable:
    return RequestTable.validated(
        [row[0] for row in rows],
        [50] * len(rows),
        [1 + k for k in range(len(rows))],
        abort_time=[np.inf if row[3] is None else row[0] + row[3] for row in rows],
        contents=contents_of(rows),
    )


def plain(table: RequestTable) -> list:
    """Return every request of a table as plain values."""
    held = table.contents
    assert held is not None
    out = []
    for r in range(len(table)):
        at = slice(held.first[r], held.first[r + 1])
        pieces = list(zip(held.piece_id[at].tolist(), held.piece_length[at].tolist(), strict=True))
        out.append(
            (table.arrival_time[r], pieces, held.answer[r], table.abort_time[r],
             table.decode_length[r])
        )  # fmt: skip
    return out


def expected(rows) -> list:
    return [
        (row[0], row[1], row[2], np.inf if row[3] is None else row[0] + row[3], 1 + k)
        for k, row in enumerate(rows)
    ]


@given(requests, requests, st.data())
def test_rows_keep_their_contents(rows, others, data):
    table = table_of(rows)
    in_order = sorted(expected(rows), key=lambda row: row[0])
    assert plain(table) == in_order
    some = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=9))
    taken = table.take(some)
    assert plain(taken) == sorted((in_order[k] for k in some), key=lambda row: row[0])
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept = [row for row, keep in zip(in_order, mask, strict=True) if keep]
    assert plain(table.take(mask)) == kept
    both = plain(table) + plain(table_of(others))
    assert plain(table.joined(table_of(others))) == sorted(both, key=lambda row: row[0])
    again = RequestTable.from_arrays(table.arrays())
    assert plain(again) == plain(table)
    assert again.arrays().keys() == table.arrays().keys()


@given(requests, requests)
def test_a_table_without_contents_joins_one_with(rows, others):
    bare = RequestTable.validated([row[0] for row in rows], [50] * len(rows), [1] * len(rows))
    table = table_of(others)
    for one, other in ((bare, table), (table, bare)):
        both = one.joined(other)
        assert both.contents is not None and len(both.contents) == len(both)
        known = [row for row in plain(both) if row[1]]
        assert known == [row for row in plain(table) if row[1]]
    assert bare.joined(bare).contents is None


@given(requests, st.floats(0, 3))
def test_a_client_waits_as_long_whenever_it_comes(rows, factor):
    table = table_of(rows)
    patience = table.abort_time - table.arrival_time
    stretched = table.stretched(factor)
    assert stretched.abort_time - stretched.arrival_time == pytest.approx(patience, abs=1e-12)
    assert (stretched.abort_time >= stretched.arrival_time).all()
    assert table.stretched(1.0).abort_time.tobytes() == table.abort_time.tobytes()
    permuted = table.with_lengths_permuted(np.random.default_rng(1))
    rows_of = permuted.decode_length - 1  # they name the row before the table was sorted
    waits = np.array([np.inf if row[3] is None else row[3] for row in rows])
    assert permuted.abort_time - permuted.arrival_time == pytest.approx(waits[rows_of], abs=1e-12)
    assert permuted.arrival_time.tobytes() == table.arrival_time.tobytes()
    assert [row[1:3] for row in plain(permuted)] == [tuple(rows[k][1:3]) for k in rows_of]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], [0], [5]), "row 1, column 'content', value 0: allowed: a whole number >= 1"),
        (([0, 1, 2], [3, 4], [5, 0]), "row 2, column 'length of content', value 0"),
        (([0, 1], [3], [5, 6]), "as many ids as lengths"),
        (([0, 2], [3], [5]), "begin at 0 and end at 1"),
        (([0, 1, 0, 1], [3], [5]), "never decrease"),
        (([0, 1], [3], [5], [-1]), "row 1, column 'answer_content', value -1"),
        (([0, 1], [3], [5], [1, 2]), "has 2 values for 1 requests"),
        (([0, 1], [3.5], [5]), "a list of whole numbers"),
        (([0, 1], np.array([2**63], np.uint64), [5]), "a list of whole numbers up to"),
    ],
)
def test_wrong_contents_are_refused(arguments, words):
    with pytest.raises(WorkloadError, match=words):
        Contents.validated(*arguments)


def test_wrong_columns_of_a_table_are_refused():
    with pytest.raises(WorkloadError, match="'content': has 2 values for 1 requests"):
        RequestTable.validated([0], [1], [1], contents=Contents.none(2))
    with pytest.raises(WorkloadError, match=r"row 2, column 'abort_time', value 1\.5: allowed"):
        RequestTable.validated([0, 2], [1, 1], [1, 1], abort_time=[0, 1.5])
    with pytest.raises(WorkloadError, match="row 1, column 'abort_time', value nan: allowed"):
        RequestTable.validated([0], [1], [1], abort_time=[np.nan])
    with pytest.raises(WorkloadError, match="'abort_time': has 2 values for 1 requests"):
        RequestTable.validated([0], [1], [1], abort_time=[1, 2])


def test_the_decode_node_refuses_clients_who_give_up_and_needs_no_contents():
    alike = Contents.validated([0, 1, 2], [7, 7], [20, 20])
    table = RequestTable.validated([0, 1], [20, 20], [5, 5], contents=alike)
    bare = RequestTable.validated([0, 1], [20, 20], [5, 5])
    node = DecodeNode()
    assert simulate(table, node).requests["completion_time"].tolist() == (
        simulate(bare, node).requests["completion_time"].tolist()
    )
    leaving = RequestTable.validated([0, 1], [20, 20], [5, 5], abort_time=[np.inf, 4])
    with pytest.raises(WorkloadError, match=r"row 2, column 'abort_time', value 4\.0: .*node"):
        simulate(leaving, node)


@given(requests, st.integers(1, 3))
def test_groups_share_no_content_and_each_repeats_itself_as_before(rows, groups):
    held = contents_of(rows)
    group = np.arange(len(rows)) % groups
    named = held.apart(group)
    assert named.piece_length.tolist() == held.piece_length.tolist()
    assert ((named.answer == 0) == (held.answer == 0)).all()
    owner = np.concatenate([np.repeat(group, np.diff(held.first)), group])
    before = np.concatenate([held.piece_id, held.answer])
    after = np.concatenate([named.piece_id, named.answer])
    known = before > 0
    pairs = set(zip(owner[known], before[known], after[known], strict=True))
    assert (
        len({(own, old) for own, old, _ in pairs}) == len({new for *_, new in pairs}) == len(pairs)
    )
