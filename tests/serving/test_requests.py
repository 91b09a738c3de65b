"""Request mixes against brute force, and what the request table refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import RequestMix, RequestTable, WorkloadError

pairs = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=40
)


@given(pairs)
def test_mix_equals_brute_force_over_the_requests(requests):
    p, d, c = (np.array(each) for each in zip(*requests, strict=True))
    mix = RequestMix.from_lengths(p, d, request_class=c)
    assert len(mix) == len(set(requests))
    assert mix.probability.sum() == pytest.approx(1.0)
    assert mix.mean_prefill == pytest.approx(p.mean())
    assert mix.mean_decode == pytest.approx(d.mean())
    work = [sum(one + k + 1 for k in range(other)) for one, other in zip(p, d, strict=True)]
    assert mix.work == pytest.approx(np.mean(work))
    k = np.arange(d.max() + 1)
    assert mix.survival() == pytest.approx([(d > each).mean() for each in k])
    assert mix.prefill_survival() == pytest.approx([(p * (d > each)).mean() for each in k])
    assert mix.survival()[-1] == 0.0


@given(pairs, st.lists(st.floats(0.1, 5), min_size=40, max_size=40))
def test_weights_are_relative_frequencies(requests, weights):
    p, d, _ = (np.array(each) for each in zip(*requests, strict=True))
    w = np.array(weights[: p.size])
    assert RequestMix.from_lengths(p, d, w).mean_decode == pytest.approx(w @ d / w.sum())


@pytest.mark.parametrize(
    ("p", "d", "w"), [([], [], None), ([1], [0], None), ([1], [1], [-1.0]), ([1], [1, 2], None)]
)
def test_impossible_mixes_are_refused(p, d, w):
    mass = np.ones(len(d)) if w is None else np.array(w)
    with pytest.raises(WorkloadError):
        RequestMix(np.array(p, float), np.array(d, int), mass, np.zeros(len(d), int))


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_a_table_is_sorted_by_arrival_keeping_the_order_of_ties(rows):
    arrival, length = zip(*rows, strict=True)
    table = RequestTable.validated(arrival, length, length, priority=range(len(rows)))
    expected = sorted(range(len(rows)), key=lambda i: arrival[i])
    assert table.priority.tolist() == expected
    assert table.horizon == max(arrival)
    assert table.rate_profile().total == len(rows)


def test_permuting_lengths_keeps_arrivals_and_whole_rows():
    table = RequestTable.validated(
        np.arange(50), np.arange(1, 51), np.arange(1, 51) * 2, priority=np.arange(1, 51) * 3
    )
    dealt = table.with_lengths_permuted(np.random.default_rng(1))
    assert (dealt.arrival_time == table.arrival_time).all()
    assert sorted(dealt.prefill_length) == list(range(1, 51))
    assert (dealt.prefill_length != table.prefill_length).any()
    assert (dealt.decode_length == 2 * dealt.prefill_length).all()
    assert (dealt.priority == 3 * dealt.prefill_length).all()


def test_take_and_stretched():
    table = RequestTable.validated([0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 8])
    assert table.take([3, 0]).prefill_length.tolist() == [1, 4]
    assert table.take(table.decode_length > 6).prefill_length.tolist() == [3, 4]
    assert table.stretched(2.0).arrival_time.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("columns", "row", "column"),
    [
        (([0, np.nan], [1, 1], [1, 1]), 2, "arrival_time"),
        (([0, -1], [1, 1], [1, 1]), 2, "arrival_time"),
        (([0, 1], [1, 0], [1, 1]), 2, "prefill_length"),
        (([0, 1], [1, 1], [-2, 1]), 1, "decode_length"),
        (([0, 1], [1, 1.5], [1, 1]), 2, "prefill_length"),
        (([0, 1], [1, np.inf], [1, 1]), 2, "prefill_length"),
        (([0, 1], [1], [1, 1]), None, "prefill_length"),
        (([], [], []), None, None),
    ],
)
def test_a_wrong_value_is_named_by_file_row_and_column(columns, row, column):
    with pytest.raises(WorkloadError) as caught:
        RequestTable.validated(*columns, path="some.csv")
    assert (caught.value.row, caught.value.column) == (row, column)
    assert str(caught.value).startswith("some.csv") and "\n" not in str(caught.value)


def test_a_request_that_can_never_finish_is_refused():
    table = RequestTable.validated([0, 1], [5, 90], [5, 11])
    table.refuse_longer_than(101, "M_total = 101")
    with pytest.raises(WorkloadError, match=r"row 2, .* value 101: can never .*M_total = 100"):
        table.refuse_longer_than(100, "M_total = 100")
