from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import capacity, saturation, straddle
from serving import BatchTimeLaw, DecodeNode, RequestMix


def normal_mix() -> RequestMix:
    p_short, d_short = np.meshgrid(np.arange(10, 61), np.arange(10, 41))
    p_long, d_long = np.meshgrid(np.arange(150, 201), np.arange(80, 101))
    weight = np.r_[
        np.full(p_short.size, 0.8 / p_short.size), np.full(p_long.size, 0.2 / p_long.size)
    ]
    return RequestMix.from_lengths(
        np.r_[p_short.ravel(), p_long.ravel()], np.r_[d_short.ravel(), d_long.ravel()], weight
    )


def test_known_experiment():
    mix = RequestMix.from_lengths([20], [20])
    node = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10000, B=10000)
    assert capacity(mix, node) == pytest.approx(5.1182, abs=1e-4)


def test_normal_mix_saturates_at_the_measured_tokens():
    mix = normal_mix()
    # short: E[p]E[D] + (E[D^2] + E[D])/2 = 35*25 + (705 + 25)/2; long: 175*90 + (24410/3 + 90)/2
    short, long = 35 * 25 + (705 + 25) / 2, 175 * 90 + (24410 / 3 + 90) / 2
    assert mix.work == pytest.approx(0.8 * short + 0.2 * long, rel=1e-12)
    # saturated tokens measured on the discrete engine: 1942.1 +- .3 and 9942.0 +- .2
    assert saturation(mix, DecodeNode()).batch_tokens == pytest.approx(1942.1, abs=0.9)
    assert saturation(mix, DecodeNode(B=None)).batch_tokens == pytest.approx(9942.0, abs=0.6)


def test_batch_time_split_by_requests_and_context():
    """A saturated batch holds C E[D] / W requests: check against a one-class renewal count."""
    mix = RequestMix.from_lengths([30], [3])
    law = BatchTimeLaw(d_0=1.0, d_decode=0.5, d_kv=0.01)
    state = saturation(mix, DecodeNode(law, M_total=10**6, B=10**5))
    # 31 + 32 + 33 tokens for three requests at stages 1, 2, 3
    assert state.batch_size == pytest.approx(state.batch_tokens * 3 / 96)
    context = state.batch_tokens - state.batch_size
    assert state.batch_time == pytest.approx(1 + 0.5 * state.batch_size + 0.01 * context)


def test_threshold_bounds_memory_not_budget():
    mix = RequestMix.from_lengths([20], [20])
    law = BatchTimeLaw.per_token(0.003, 0.00032)
    half = saturation(mix, DecodeNode(law, M_total=10000, B=None, admission_threshold=0.5))
    assert half.batch_tokens - half.batch_size == pytest.approx(5000 + 10)
    bound = saturation(mix, DecodeNode(law, M_total=10000, B=1000, admission_threshold=0.5))
    assert bound.batch_tokens == pytest.approx(1000 - straddle(mix))


def test_one_request_at_a_time():
    mix = RequestMix.from_lengths([50], [10])
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 0.01), M_total=60, B=10)
    assert capacity(mix, node) == pytest.approx(1 / (10 * 1.0 + 0.01 * mix.work))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 200)), min_size=1, max_size=5),
    st.integers(500, 10**6),
    st.integers(500, 10**6),
)
def test_capacity_grows_with_memory_and_budget(pairs, memory, budget):
    mix = RequestMix.from_lengths(*zip(*pairs, strict=True))
    node = DecodeNode(M_total=memory, B=budget)
    more = DecodeNode(M_total=2 * memory, B=2 * budget)
    assert 0 < capacity(mix, node) <= capacity(mix, more) * (1 + 1e-12)
    assert capacity(mix, node) <= 1 / (1e-3 * mix.work)
