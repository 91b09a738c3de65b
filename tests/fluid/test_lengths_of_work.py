"""The classes of a mix by decode length: what is drawn of them, and the memory of batch tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import request_work
from fluid.node_work.lengths import NODES
from fluid.node_work.request_work import (
    COUNT,
    DECODE,
    EXECUTING,
    LEFT_SUM,
    PLAIN,
    SQUARED_TOKENS,
    TOKENS_SUM,
)
from ode.node_work.model import longest_stay
from serving import RequestMix

mixes = st.builds(
    lambda p, d, w: RequestMix.from_lengths(p[: len(d)], d, w[: len(d)]),
    st.lists(st.integers(1, 3000), min_size=40, max_size=40),
    st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    st.lists(st.floats(1e-4, 1.0), min_size=40, max_size=40),
)


@given(mixes, st.sampled_from([1, 7, 4096]))
def test_an_even_draw_weighs_every_class_by_its_share(mix, samples):
    lengths = request_work(mix).lengths
    rank = (np.arange(samples) + 0.5) / samples
    which = lengths.at_rank(rank)
    weight = lengths.weight[which] / samples
    # each class is drawn to within one sample of its share of the draw
    for j in range(lengths.decode.size):
        share = np.diff(lengths.rank, prepend=0.0)[j]
        assert abs((which == j).sum() - samples * share) <= 1
        is_class = (mix.decode == lengths.decode[j]) & (mix.prefill == lengths.prefill[j])
        assert share * lengths.weight[j] == pytest.approx(mix.probability[is_class].sum())
    assert weight.max() <= 2.0 / samples
    assert (np.diff(lengths.decode) >= 0).all() and lengths.rank[-1] == 1.0


def test_rare_long_requests_are_in_a_small_draw():
    mix = RequestMix.from_lengths([100, 100], [10, 3000], [0.998, 0.002])
    lengths = request_work(mix).lengths
    which = lengths.at_rank((np.arange(200) + 0.5) / 200)
    assert 30 < (lengths.decode[which] == 3000).sum() < 40
    mean = np.average(lengths.decode[which], weights=lengths.weight[which])
    assert mean == pytest.approx(mix.mean_decode, rel=0.01)


@given(mixes)
def test_every_length_has_its_place_between_the_nodes(mix):
    lengths = request_work(mix).lengths
    place = lengths.place(lengths.decode)
    assert lengths.nodes.size <= NODES
    assert (lengths.nodes[0], lengths.nodes[-1]) == (mix.decode.min(), mix.decode.max())
    assert ((place >= 0) & (place <= lengths.nodes.size - 1)).all()
    below = lengths.nodes[np.floor(place + 1e-9).astype(int)]
    above = lengths.nodes[np.ceil(place - 1e-9).astype(int)]
    assert (below <= lengths.decode).all() and (lengths.decode <= above).all()


@pytest.mark.parametrize("oldest", [3.0, 17.5, 60.0, 1e6])
def test_moments_at_the_beginning_are_plain_sums_over_the_stages_reached(oldest):
    rng = np.random.default_rng(4)
    p, d = rng.integers(5, 200, 30).astype(float), rng.integers(1, 80, 30)
    mix = RequestMix.from_lengths(p, d)
    extra = 3.0
    work = request_work(mix, extra, oldest)
    sums = np.zeros(3)
    for atom in range(len(mix)):
        reached = min(float(mix.decode[atom]), oldest)
        k = (np.arange(4000) + 0.5) / 4000 * reached  # the stages as a continuum
        width = reached / 4000 * mix.probability[atom]
        x, end = mix.prefill[atom] + 0.5, float(mix.decode[atom])
        left = (x + extra) * (end - k) + (end**2 - k**2) / 2
        sums += width * np.array([k.size, (x + k).sum(), left.sum()])
    found = [work.requests[row].sum() for row in (DECODE, TOKENS_SUM, LEFT_SUM)]
    assert found == pytest.approx(sums, rel=1e-6)
    stages = [work.stages[PLAIN, row].sum() for row in (COUNT, EXECUTING)]
    waiting = 0.5  # of those who wait for the batch under way to end
    assert stages[0] - waiting == pytest.approx(sums[0], rel=1e-9)
    assert stages[1] == pytest.approx(sums[1], rel=1e-3)
    every = request_work(mix, extra)
    assert (work.mean, work.second) == (every.mean, every.second)


def test_fewer_requests_stand_for_a_mix():
    rng = np.random.default_rng(4)
    p, d = rng.lognormal(5, 1, 5000), rng.geometric(0.01, 5000)
    mix = RequestMix.from_lengths(np.ceil(p), d)
    late = longest_stay(mix) - 1.0
    few, every = request_work(mix, 0.0, late), request_work(mix, 0.0)
    for row in (DECODE, TOKENS_SUM, LEFT_SUM, SQUARED_TOKENS):
        assert few.requests[row].sum() == pytest.approx(every.requests[row].sum(), rel=0.05)


def plain_persistence(mix: RequestMix, extra: float) -> dict[int, float]:
    """Sum over stages and lags one by one: independent requests, one Poisson stream per batch."""
    longest = int(mix.decode.max())
    tokens, crossed, work = (np.zeros(longest) for _ in range(3))
    for share, p, d in zip(mix.probability, mix.prefill, mix.decode, strict=True):
        k = np.arange(d) + 0.5
        c = p + 0.5 + k
        r = (p + 0.5 + extra) * (d - k) + (d**2 - k**2) / 2
        for lag in range(int(d)):
            tokens[lag] += share * (c[: d - lag] @ c[lag:])
            crossed[lag] += share * (c[: d - lag] @ r[lag:] + r[: d - lag] @ c[lag:])
            work[lag] += share * (r[: d - lag] @ r[lag:])
    slope = crossed[0] / 2 / work[0]
    rest = tokens - slope * crossed + slope**2 * work
    rest /= rest[0]
    return {
        d: d + 2 * sum((d - k) * rest[k] for k in range(1, d)) for d in set(mix.decode.tolist())
    }


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 300), min_size=3, max_size=3),
    st.lists(st.integers(20, 80), min_size=3, max_size=3, unique=True),
    st.sampled_from([0.0, 20.0]),
)
def test_persistence_is_the_plain_sum_over_lags(prefill, decode, extra):
    mix = RequestMix.from_lengths(prefill, decode)
    lengths, plain = request_work(mix, extra).lengths, plain_persistence(mix, extra)
    for node, found in zip(lengths.nodes, lengths.persistence, strict=True):
        # lags between 40 are interpolated, and stages are integrated rather than summed
        assert found == pytest.approx(max(plain[int(node)], 0.0), rel=0.05, abs=0.05 * node)
