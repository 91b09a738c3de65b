"""The law of a node's batch given its work, against brute force and independent sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from fluid import capacity, request_work, saturation, work_closure
from fluid.node_work.decode_node import tokens_besides
from fluid.node_work.request_work import (
    COUNT,
    DECODE,
    EXECUTING,
    LEFT,
    LEFT_SQUARED,
    LEFT_SUM,
    PLAIN,
    SQUARED_TOKENS,
    TOKENS,
    TOKENS_LEFT,
    WORK,
)
from serving import BatchTimeLaw, DecodeNode, RequestMix


def brute_force(mix: RequestMix, extra: float = 0.0) -> dict[str, float]:
    """Sum over every stage of every atom, the stage in progress half done."""
    sums = dict.fromkeys(("n", "c", "r", "cc", "cr", "rr", "gg"), 0.0)
    for share, p, d in zip(mix.probability, mix.prefill, mix.decode, strict=True):
        c = p + np.arange(d) + 1.0
        r = np.cumsum((c + extra)[::-1])[::-1] - 0.5 * (c + extra)
        for key, value in {
            "n": np.ones(d), "c": c, "r": r, "cc": c * c, "cr": c * r, "rr": r * r,
            "gg": (c + extra) ** 2,
        }.items():  # fmt: skip
            sums[key] += share * float(value.sum())
    return sums


mixes = st.builds(
    lambda p, d, w: RequestMix.from_lengths(p[: len(d)], d, w[: len(d)]),
    st.lists(st.integers(1, 300), min_size=4, max_size=4),
    st.lists(st.integers(1, 120), min_size=1, max_size=4),
    st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(mixes, st.sampled_from([0.0, -0.5, 3.0, 200.0]))
def test_binned_moments_are_those_of_the_stages(mix, extra):
    work, exact = request_work(mix, extra), brute_force(mix, extra)
    d = mix.decode.astype(float)
    w = mix.prefill * d + d * (d + 1) / 2 + extra * d
    pending = 0.5 * np.array([1.0, mix.probability @ w, mix.probability @ (mix.prefill + 1)])
    assert work.mean == pytest.approx(mix.work + extra * mix.mean_decode)
    assert work.second == pytest.approx(mix.probability @ w**2, rel=0.02)
    stages = work.stages[PLAIN].sum(axis=1)
    assert stages[COUNT] == pytest.approx(exact["n"] + pending[0])
    assert stages[LEFT] == pytest.approx(exact["r"] + pending[1], rel=0.01)
    assert stages[TOKENS] == pytest.approx(exact["c"] + pending[2], rel=0.01)
    assert stages[EXECUTING] == pytest.approx(exact["c"], rel=0.01)
    totals = work.requests.sum(axis=1)
    assert totals[WORK] == pytest.approx(exact["c"] + extra * exact["n"])
    assert totals[DECODE] == pytest.approx(exact["n"])
    # Integrals over the stages for their values in the middle: over a stage of length 1, that of f
    # exceeds f in the middle by 1/24 of its second derivative and 1/1920 of its fourth. R in the
    # middle is r + 1/8; its derivatives are -(c + g) and -1.
    n = exact["n"]
    assert totals[LEFT_SUM] == pytest.approx(exact["r"] + n / 12)
    assert totals[SQUARED_TOKENS] == pytest.approx(exact["cc"] + n / 12)
    assert totals[TOKENS_LEFT] == pytest.approx(exact["cr"] - extra * n / 12)
    squares = exact["rr"] + exact["r"] / 6 + exact["gg"] / 12 + n / 120
    assert totals[LEFT_SQUARED] == pytest.approx(squares)


def stages_of(mix, node, rate):
    """Return remaining work, tokens, whether it executes and weight of each stage, and (shape, q).

    Stages are those of an affine law; besides them, requests wait for a batch to end. How many
    there are is negative binomial.
    """
    line = node.batch_time
    d_n, d_1 = line.d_decode - line.d_kv, line.d_kv
    q = rate * (d_1 * mix.work + d_n * mix.mean_decode)
    each = d_1 * mix.work / mix.mean_decode + d_n
    own = (line.d_0 + each * q) / (1 - q) + d_n
    extra = tokens_besides(node, saturation(mix, node))
    parts = []
    for share, p, d in zip(mix.probability, mix.prefill, mix.decode, strict=True):
        c = p + np.arange(d) + 1.0
        r = np.cumsum((c + extra)[::-1])[::-1] - 0.5 * (c + extra)
        whole = (p + extra) * d + d * (d + 1) / 2
        parts.append([np.append(r, whole), np.append(c, p + 1.0), np.append(np.ones(int(d)), 0.0),
                      share * np.append(own + d_1 * c, 0.5 * (own + d_1 * (p + 1)))])  # fmt: skip
    return *np.concatenate(parts, axis=1), 1 + line.d_0 / each, q


@pytest.mark.parametrize(
    ("d_n", "d_1"), [(0.0, 1e-3), (0.05, 3e-4), (0.1, 1e-5)], ids=["tokens", "both", "requests"]
)
def test_demand_given_work_is_that_of_sampled_configurations(d_n, d_1):
    """A negative binomial number of independent stages, drawn and binned by their work."""
    mix = RequestMix.from_lengths([40, 170], [25, 90], [0.8, 0.2])
    node = DecodeNode(batch_time=BatchTimeLaw(d_0=1.0, d_decode=d_1 + d_n, d_kv=d_1))
    rate = 0.7 * capacity(mix, node)
    closure = work_closure(mix, node, rate)
    remaining, tokens, executes, weight, shape, q = stages_of(mix, node, rate)
    rng = np.random.default_rng(3)
    chance = weight / weight.sum()
    count = rng.negative_binomial(shape, 1 - q, size=400_000)
    which = rng.choice(chance.size, size=int(count.sum()), p=chance)
    owner = np.repeat(np.arange(count.size), count)
    v = np.bincount(owner, remaining[which], count.size)
    x = np.bincount(owner, tokens[which], count.size)
    n = np.bincount(owner, executes[which], count.size)
    running = np.bincount(owner, (executes * tokens)[which], count.size)
    for level in np.quantile(v, [0.1, 0.3, 0.5, 0.8, 0.98]):
        near = np.abs(v - level) < 0.02 * v.mean()
        assert near.sum() > 500
        requests = n[near].mean() / running[near].mean()
        per_token = np.interp(level, closure.level, closure.per_token)
        assert per_token == pytest.approx(requests, rel=0.03)
        error = x[near].std() / np.sqrt(near.sum())
        mean = np.interp(level, closure.level, closure.demand)
        assert mean == pytest.approx(x[near].mean(), rel=0.02, abs=4 * error)
        spread = np.interp(level, closure.level, closure.spread)
        assert spread == pytest.approx(x[near].std(), rel=0.08)


@pytest.mark.parametrize("load", [0.4, 0.9])
@pytest.mark.parametrize("d_n", [0.0, 0.05], ids=["tokens", "both"])
def test_beside_many_small_requests_the_closure_is_its_saddle_point(load, d_n):
    """A tilt that puts the mean of V at a level gives what is expected there, stage by stage."""
    mix = RequestMix.from_lengths([40, 170], [25, 90], [0.8, 0.2])
    node = DecodeNode(
        BatchTimeLaw(d_0=1.0, d_decode=1e-5 + d_n, d_kv=1e-5), M_total=400_000, B=None
    )
    rate = load * capacity(mix, node)
    closure = work_closure(mix, node, rate)
    remaining, tokens, executes, weight, shape, q = stages_of(mix, node, rate)
    weight = weight / weight.sum()

    def tilted(theta):
        """Return the tilted law of a stage, and mean and variance of the count of stages."""
        law = weight * np.exp(theta * remaining)
        u = q * law.sum()
        return law / law.sum(), shape * u / (1 - u), shape * u / (1 - u) ** 2

    def work_at(theta):
        law, mean, _ = tilted(theta)
        return mean * (law @ remaining)

    high = 50 / remaining.max()
    most = brentq(lambda t: q * (weight @ np.exp(t * remaining)) - 1, 0.0, high, xtol=1e-18)
    for level in closure.level[-1] * np.array([0.1, 0.3, 0.6, 0.9]):
        theta = brentq(lambda t, to=level: work_at(t) - to, -high, most * (1 - 1e-9), xtol=1e-18)
        law, mean, variance = tilted(theta)
        expected = mean * (law @ tokens)

        def covariance(x, y, law=law, mean=mean, variance=variance):
            """Of sums over a random number of stages: within a stage, and of the number."""
            within = law @ (x * y) - (law @ x) * (law @ y)
            return mean * within + variance * (law @ x) * (law @ y)

        rest = covariance(tokens, tokens) - covariance(tokens, remaining) ** 2 / covariance(
            remaining, remaining
        )
        running = mean * (law @ (executes * tokens))
        at = {
            name: np.interp(level, closure.level, getattr(closure, name))
            for name in ("demand", "executing", "spread", "per_token")
        }
        assert at["demand"] == pytest.approx(expected, rel=0.005)
        assert at["executing"] == pytest.approx(running, rel=0.005)
        assert at["spread"] == pytest.approx(np.sqrt(rest), rel=0.02)
        # those who wait are counted by their mean prompt, whatever the tilt
        assert at["per_token"] == pytest.approx(mean * (law @ executes) / running, rel=0.02)


def test_a_saturated_batch_works_as_fast_whoever_is_in_it():
    mix = RequestMix.from_lengths([50, 200], [20, 80])
    for law in (
        BatchTimeLaw(d_0=1.0, d_decode=0.05, d_kv=1e-3),
        BatchTimeLaw(d_0=1.0, d_decode=1e-3, d_kv=1e-2),
    ):
        node = DecodeNode(law)
        full = saturation(mix, node)
        extra, tokens = tokens_besides(node, full), full.batch_tokens
        each = law.d_decode - law.d_kv
        assert extra == pytest.approx(each * tokens / (law.d_0 + law.d_kv * tokens))
        speed = [(tokens + extra * n) / law.duration(tokens, n) for n in (10.0, 40.0, 100.0)]
        assert speed == pytest.approx([speed[0]] * 3)
        closure = work_closure(mix, node, 0.9 * full.throughput)
        assert closure.fastest == pytest.approx(speed[0])
    assert tokens_besides(DecodeNode(), saturation(mix, DecodeNode())) == 0.0


def test_few_long_requests_are_behind_much_work():
    two = RequestMix.from_lengths([50, 200], [20, 80])
    node = DecodeNode(BatchTimeLaw(d_0=1.0, d_decode=0.05, d_kv=1e-3))
    loads = [0.5, 0.8, 0.95, 1.1]
    sets = [work_closure(two, node, load * capacity(two, node)) for load in loads]
    sizes, times = [each.set_size for each in sets], [each.set_time for each in sets]
    assert sizes == sorted(sizes) and times == sorted(times)
    full = saturation(two, node)
    assert (sizes[-1], times[-1]) == pytest.approx((full.batch_size, full.batch_time))


def test_work_of_a_saturated_set_is_in_proportion_to_its_tokens_without_spare_capacity():
    mix = RequestMix.from_lengths([50], [20])
    node = DecodeNode(B=None)
    full = saturation(mix, node)
    closure = work_closure(mix, node, 1.2 * full.throughput)
    exact = brute_force(mix)
    assert closure.set_mean == pytest.approx(full.batch_tokens * exact["r"] / exact["c"], rel=1e-3)
    # with spare capacity, what is left of it is longer: the tilt of those who made V large
    two = RequestMix.from_lengths([50, 200], [20, 80])
    loads = [0.5, 0.8, 0.95, 1.1]
    sets = [work_closure(two, node, load * capacity(two, node)).set_mean for load in loads]
    assert sets == sorted(sets, reverse=True)


@settings(max_examples=40, deadline=None)
@given(
    mixes, st.floats(0.05, 1.6), st.sampled_from([0.01, 1.0]),
    st.sampled_from([0.0, 1e-4, 1e-3, 0.1]), st.sampled_from([0.0, 1e-6, 1e-3]),
)  # fmt: skip
def test_a_closure_is_finite(mix, load, d_0, d_decode, d_kv):
    law = BatchTimeLaw(d_0=d_0, d_decode=d_decode, d_kv=d_kv)
    node = DecodeNode(M_total=5000, B=None, batch_time=law)
    closure = work_closure(mix, node, load * capacity(mix, node))
    parts = (closure.level, closure.demand, closure.executing, closure.spread, closure.per_token)
    for values in parts:
        assert np.isfinite(values).all() and (values >= 0).all()
    assert (closure.executing <= closure.demand * (1 + 1e-9)).all()
    assert closure.set_mean > 0 and closure.set_sd >= 0 and closure.set_size > 0
    assert 0 < closure.fastest < np.inf


@settings(max_examples=40, deadline=None)
@given(mixes, st.floats(0.05, 1.6), st.floats(0.0, 1.0))
def test_more_work_is_more_demand(mix, load, share):
    law = BatchTimeLaw(d_0=1.0, d_decode=1e-3 * (1 - share), d_kv=1e-3 * share)
    node = DecodeNode(M_total=5000, B=None, batch_time=law)
    closure = work_closure(mix, node, load * capacity(mix, node))
    # over more than a step of the grid
    tenth = np.interp(np.linspace(0, 2, 12) * closure.set_mean, closure.level, closure.demand)
    assert (np.diff(tenth) > 0).all()


@pytest.mark.parametrize("size", [100.0, 2000.0])
def test_work_hardly_ever_exceeds_its_reach(size):
    """Drawn: a negative binomial number of independent stages, as the closure takes them."""
    mix = RequestMix.from_lengths([40, 170], [25, 90], [0.8, 0.2])
    tokens = size * mix.work / mix.mean_decode
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 10.0 / tokens), M_total=int(tokens), B=None)
    rate = 0.2 * capacity(mix, node)
    closure = work_closure(mix, node, rate)
    assert closure.reach < 0.5 * closure.set_mean
    q = rate * mix.work * 10.0 / tokens
    left, weight = [], []
    for share, p, d in zip(mix.probability, mix.prefill, mix.decode, strict=True):
        c = p + np.arange(d) + 1.0
        left += [*(np.cumsum(c[::-1])[::-1] - 0.5 * c)]
        weight += [share] * int(d)
    rng = np.random.default_rng(4)
    count = rng.negative_binomial(1.0 + rate * mix.mean_decode / q, 1 - q, size=200_000)
    which = rng.choice(len(left), size=int(count.sum()), p=np.array(weight) / np.sum(weight))
    work = np.bincount(np.repeat(np.arange(count.size), count), np.array(left)[which], count.size)
    assert work.max() < closure.reach < 3 * np.quantile(work, 0.9999)
    # resolved: the levels lie where the work is
    assert np.searchsorted(closure.level, np.median(work)) > (20 if size == 2000 else 4)
    for other in (work_closure(mix, node, 0.9 * capacity(mix, node)), work_closure(mix, node, 10)):
        assert other.reach == np.inf
