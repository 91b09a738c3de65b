"""The batch-time law, scaling, and settings that are not allowed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import BatchTimeLaw, ConfigError, DecodeNode

coefficient = st.floats(0, 10)


@given(coefficient, coefficient, st.integers(0, 10**6), st.integers(0, 10**4))
def test_the_shorthand_gives_the_very_bits_of_one_coefficient(d_0, d_1, tokens, requests):
    law = BatchTimeLaw.per_token(d_0, d_1)
    assert law.duration(tokens, requests) == d_0 + d_1 * tokens


@given(
    coefficient, coefficient, coefficient, coefficient, st.lists(st.integers(1, 500), max_size=8)
)
def test_the_law_counts_requests_context_and_moved_tokens(d_0, decode, kv, swap, context):
    law = BatchTimeLaw(d_0=d_0, d_decode=decode, d_kv=kv, d_swap=swap)
    batch_tokens = sum(each + 1 for each in context)
    expected = d_0 + decode * len(context) + kv * sum(context) + swap * 17
    assert law.duration(batch_tokens, len(context), 17) == pytest.approx(expected)


@given(st.integers(1, 10**4), st.integers(1, 2000), st.integers(0, 50))
def test_a_scaled_node_takes_as_long_for_n_times_the_tokens(n, tokens, requests):
    node = DecodeNode(batch_time=BatchTimeLaw(0.5, 0.002, 0.001, 0.003, 0.004))
    large = node.scaled(n)
    assert large.batch_time.duration(n * tokens, n * requests, n * 7) == pytest.approx(
        node.batch_time.duration(tokens, requests, 7)
    )
    assert (large.M_total, large.B) == (n * node.M_total, n * node.token_budget)
    assert DecodeNode(B=None).scaled(n).B is None


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"M_total": 0}, "a whole number >= 1 and <= 9007199254740992"),
        ({"B": 0}, "a whole number >= 1 and <= 9007199254740992, or null"),
        ({"B": math.nan}, "a whole number >= 1"),
        ({"M_total": "10"}, "a whole number >= 1"),
        ({"M_total": None}, "a whole number >= 1"),
        ({"M_total": 10.5}, "a whole number >= 1"),
        ({"M_total": 10**400}, "<= 9007199254740992"),
        ({"B": 2**53 + 1}, "<= 9007199254740992"),
        ({"admission_threshold": 0.0}, "> 0 and <= 1"),
        ({"admission_threshold": 1.1}, "> 0 and <= 1"),
        ({"mode": "swap"}, "swapping | sacrifice"),
        ({"queue_policy": "LIFO"}, "FCFS | priority | SJF | path.py:function"),
        ({"victim_policy": "x"}, "LIFO | FIFO | LRU | random | path.py:function"),
        ({"time_unit": "h"}, "none | s | ms"),
        ({"length_source": "guess"}, "oracle | predicted"),
    ],
)
def test_a_setting_that_is_not_allowed_names_key_value_and_what_is(options, allowed):
    ((key, value),) = options.items()
    with pytest.raises(ConfigError) as caught:
        DecodeNode(**options)
    message = str(caught.value)
    assert caught.value.key == key and allowed in message and repr(value)[:120] in message


@pytest.mark.parametrize("key", ["d_0", "d_decode", "d_kv", "d_prefill", "d_swap"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True])
def test_times_are_finite_and_not_negative(key, value):
    with pytest.raises(ConfigError, match=f"config key '{key}'"):
        BatchTimeLaw(**{key: value})


def test_a_user_function_and_an_unlimited_budget_are_allowed():
    node = DecodeNode(queue_policy="mine.py:rank", victim_policy="mine.py:pick", B=None)
    assert node.token_budget > 10**18
