"""The healthy node under laws that bend: fixed point, line and second moments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import simulate
from fluid import capacity, equilibrium, fastest_batch, healthy_batch_time, saturation
from fluid._operating_point import operating_point
from fluid._statistical_line import Spread
from serving import BatchTimeLaw, DecodeNode, RequestMix, SolveError
from workload import describe

MIX = RequestMix.from_lengths([20, 200, 5], [30, 90, 4], [0.7, 0.2, 0.1])
LINE = BatchTimeLaw(d_0=1.0, d_decode=0.05, d_kv=2e-4)
STRAIGHT = BatchTimeLaw.tabulated([(0, 0.0), (50, 2.5), (60, 3.0)], 2e-4, d_0=1.0)
"""The law :data:`LINE` written as a table."""


@st.composite
def laws(draw: st.DrawFn) -> BatchTimeLaw:
    """Draw a table that bends either way, on top of linear terms."""
    steps = draw(st.lists(st.floats(1.0, 60.0), min_size=1, max_size=5))
    slopes = draw(st.lists(st.floats(0.0, 0.4), min_size=len(steps), max_size=len(steps)))
    requests = np.cumsum([draw(st.floats(0.0, 5.0)), *steps])
    time = draw(st.floats(0.0, 2.0)) + np.cumsum([0.0, *(np.array(steps) * slopes)])
    return BatchTimeLaw.tabulated(
        np.column_stack([requests, time]), draw(st.floats(0.0, 1e-3)),
        d_0=draw(st.floats(0.2, 3.0)), d_decode=draw(st.floats(0.0, 0.05)),
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(law=laws(), load=st.floats(0.05, 0.98))
def test_the_fixed_point_is_one_and_no_earlier_one_exists(law, load):
    node = DecodeNode(law, M_total=20_000, B=None)
    rate = load * capacity(MIX, node)
    full = saturation(MIX, node).batch_tokens
    found = operating_point(MIX, law, rate, full, idles=False)

    def duration(cycle):
        return law.duration(rate * cycle * MIX.work, rate * cycle * MIX.mean_decode)

    assert found.tau == pytest.approx(float(duration(found.tau)), rel=1e-9)
    assert found.tau == pytest.approx(healthy_batch_time(MIX, node, rate))
    cycles = np.linspace(0.0, found.tau * (1 - 1e-6), 5000)
    # neighbours of the grid that the search walks, 2 % apart, may hide a pair of crossings
    missed = duration(cycles) < cycles * (1 - 0.02)
    assert not missed.any()
    tokens, requests = rate * found.tau * MIX.work, rate * found.tau * MIX.mean_decode
    assert found.line.duration(tokens, requests) == pytest.approx(found.tau)
    with_idling = operating_point(MIX, law, rate, full)
    cycle = with_idling.cycle
    assert with_idling.tau == pytest.approx(float(duration(cycle)), rel=1e-9)
    share = with_idling.idle / cycle
    stay = with_idling.tau * (MIX.mean_decode + (1 - share) / 2)
    assert share == pytest.approx(np.exp(-rate * stay), abs=1e-6)


@pytest.mark.parametrize("load", [0.01, 0.3, 0.9])
def test_a_straight_table_is_the_affine_law(load):
    affine, table = (DecodeNode(law, M_total=20_000, B=None) for law in (LINE, STRAIGHT))
    rate = load * capacity(MIX, affine)
    assert capacity(MIX, table) == pytest.approx(capacity(MIX, affine))
    one, other = equilibrium(MIX, affine, rate), equilibrium(MIX, table, rate)
    for name in ("load", "rho", "idle", "tau", "batch_tokens", "running", "decode_time", "wait"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-8), name
    for name in ("var_batch_tokens", "var_running", "cov_running_tokens", "var_batch_time"):
        expected = getattr(one.moments, name)
        assert getattr(other.moments, name) == pytest.approx(expected, rel=1e-7), name


@settings(max_examples=80, deadline=None)
@given(law=laws(), requests=st.floats(1.5, 300.0), cv=st.floats(0.01, 1.0))
def test_the_line_has_mean_and_regression_slope_of_gamma_batches(law, requests, cv):
    spread = Spread.of(requests, (cv * (requests - 1)) ** 2)
    assert spread.relative.mean() == pytest.approx(1.0)
    tokens = 30 * requests
    line = spread.line(law, tokens, requests)
    assert line.duration(tokens, requests) == pytest.approx(
        float(spread.duration(law, tokens, requests))
    )
    drawn = 1 + (requests - 1) * spread.relative
    slope = np.polyfit(drawn, law.duration(tokens, drawn), 1)[0]
    assert line.per_request == pytest.approx(slope, abs=1e-7 / requests)


CONCAVE = BatchTimeLaw.tabulated([(1, 0.5), (8, 4), (24, 9), (48, 10), (200, 11)], 2e-4, d_0=1.0)
CONVEX = BatchTimeLaw.tabulated([(1, 0.5), (20, 1), (40, 2), (80, 8), (200, 40)], 2e-4, d_0=2.0)


@pytest.mark.parametrize(
    ("law", "requests", "bound"),
    [(CONCAVE, 38, 0.25), (CONCAVE, 70, 0.06), (CONVEX, 9, 0.06), (CONVEX, 18, 0.06)],
    ids=["concave, at a bend", "concave", "convex", "convex, at a bend"],
)
def test_second_moments_are_the_engines(law, requests, bound):
    """Within 6 %; a quarter short where the law turns level amid the batches of a node."""
    work, node = describe("normal"), DecodeNode(law, M_total=14_000, B=None)
    tokens = requests * work.mix.work / work.mix.mean_decode
    rate = requests / work.mix.mean_decode / float(law.duration(tokens, requests))
    state = equilibrium(work.mix, node, rate)
    table = work.at_rate(rate).sample(num_requests=600_000, seed=4)
    run = simulate(table, node, until=float(table.arrival_time[-1]))
    batches = {
        name: np.asarray(run.batches[name], float)[2000:]
        for name in ("batch_tokens", "batch_duration", "batch_size")
    }
    assert state.tau == pytest.approx(batches["batch_duration"].mean(), rel=0.02)
    assert state.running == pytest.approx(batches["batch_size"].mean(), rel=0.02)
    second = state.moments
    assert second.var_batch_tokens == pytest.approx(batches["batch_tokens"].var(), rel=0.06)
    assert second.var_batch_time == pytest.approx(batches["batch_duration"].var(), rel=bound)


def test_a_law_that_bends_upwards_says_which_batch_is_fastest():
    steep = BatchTimeLaw.tabulated([(1, 0.5), (40, 1.0), (80, 12.0)], 2e-4, d_0=2.0)
    node = DecodeNode(steep, M_total=10_000, B=None)
    full, best = saturation(MIX, node), fastest_batch(MIX, node)
    assert best.batch_size == pytest.approx(40, rel=0.01)
    assert best.throughput > 1.9 * full.throughput
    with pytest.raises(SolveError, match=r"bends upwards: batches of .* give B"):
        equilibrium(MIX, node, 1.1 * full.throughput)
    smaller = DecodeNode(steep, M_total=10_000, B=round(best.batch_tokens))
    assert fastest_batch(MIX, smaller) is saturation(MIX, smaller)
    assert equilibrium(MIX, smaller, 1.1 * full.throughput).load < 0.6
    affine = DecodeNode(LINE, M_total=10_000, B=None)
    assert fastest_batch(MIX, affine) is saturation(MIX, affine)


def test_no_fixed_point_is_an_overload():
    node = DecodeNode(STRAIGHT, M_total=20_000, B=None)
    rate = 1.01 / (0.05 * MIX.mean_decode + 2e-4 * MIX.work)
    assert healthy_batch_time(MIX, node, rate) == np.inf
    with pytest.raises(SolveError, match="overload"):
        operating_point(MIX, STRAIGHT, rate, 20_000)
