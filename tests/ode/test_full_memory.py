"""The fluid with a full memory: collapse, the loop, regimes, the choice of threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fluid
import ode
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RateProfile, RequestMix, SolveError

KNOWN = DecodeNode(
    BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
)
ALIKE = RequestMix.from_lengths([20], [20])


TABLE = BatchTimeLaw.tabulated([(1, 0.05), (120, 1.2), (300, 2.6), (400, 2.7)], 1e-5, d_0=0.01)
TABULATED = replace(KNOWN, batch_time=TABLE)


def geometric(p: int, mean: float) -> RequestMix:
    k = np.arange(1, int(30 * mean))
    return RequestMix.from_lengths(np.full(k.size, p), k, (1 - 1 / mean) ** (k - 1) / mean)


@settings(max_examples=40, deadline=None)
@given(
    p=st.integers(1, 80),
    length=st.integers(2, 60),
    kappa=st.sampled_from([1.0, 0.8, 0.6]),
    law=st.sampled_from([BatchTimeLaw.per_token(1.0, 1e-3), TABLE.scaled(10)]),
)
def test_one_length_collapses_to_the_closed_form(p, length, kappa, law):
    mix = RequestMix.from_lengths([p], [length])
    node = DecodeNode(law, M_total=100_000, B=None, mode="sacrifice", admission_threshold=kappa)
    found = ode.collapsed_throughput(mix, node)
    closed = fluid.worst_cycle(mix, node)
    if kappa * (p + length) < p:  # growth fits: admission fills up to the threshold again and again
        assert found.evictions_per_completion == 0
        return
    assert found.converged
    assert found.throughput == pytest.approx(closed.throughput, rel=1e-3)
    assert found.evictions_per_completion == pytest.approx(
        closed.evictions_per_completion, rel=5e-3, abs=1e-3
    )


def test_collapse_of_the_known_experiment():
    found = ode.collapsed_throughput(ALIKE, KNOWN)
    assert found.throughput == pytest.approx(3.9026, abs=2e-4)
    assert found.capacity == pytest.approx(5.1182, abs=1e-4)
    assert found.loss == pytest.approx(1 - 3.9026 / 5.1182, abs=1e-4)


def test_a_stable_mix_and_swapping_lose_nothing():
    wide = geometric(20, 20.0)
    for mix, node in ((wide, KNOWN), (ALIKE, replace(KNOWN, mode="swapping"))):
        found = ode.collapsed_throughput(mix, node)
        # a fluid fills the straddle too
        room = fluid.straddle(mix) / node.M_total
        assert found.throughput / found.capacity == pytest.approx(1 + 0.5 * room, abs=room)
    assert not ode.collapsed_throughput(wide, KNOWN).evicts


def test_a_longer_march_says_the_same():
    mix = RequestMix.from_lengths([20, 20, 60], [18, 24, 21])
    rough = ode.collapsed_throughput(mix, KNOWN, tolerance=1e-3)
    fine = ode.collapsed_throughput(mix, KNOWN, tolerance=1e-6)
    assert fine.batches > rough.batches and fine.evicts
    assert rough.throughput == pytest.approx(fine.throughput, rel=2e-3)
    assert ode.collapsed_throughput(mix, KNOWN).throughput == pytest.approx(
        fine.throughput, rel=2e-4
    )


def test_the_loop_of_the_known_experiment():
    loop = ode.hysteresis(ALIKE, KNOWN)
    assert loop.window == pytest.approx((3.9026, 5.1182), abs=2e-4)
    rate, done, top = loop.arrival_rate, loop.throughput, loop.top
    low = loop.window[0]
    up, down = rate[:top], rate[top + 1 :]
    assert done[:top] == pytest.approx(up, rel=2e-3)
    assert done[top] == pytest.approx(low, rel=1e-3)
    inside = down > low
    assert inside.sum() > 5 and (~inside).sum() > 2
    assert done[top + 1 :][inside] == pytest.approx(low, rel=1e-3)
    assert done[top + 1 :][~inside] == pytest.approx(down[~inside], rel=1e-3)
    assert loop.in_system[-1] < 5
    assert loop.gap == pytest.approx(1 - low / up[-1], abs=1e-3)


def test_the_loop_under_a_table():
    """Both branches of a node whose table is most of its batch time; the rests suit its batches."""
    low, high = fluid.worst_cycle(ALIKE, TABULATED).throughput, fluid.capacity(ALIKE, TABULATED)
    loop = ode.hysteresis(ALIKE, TABULATED, [0.8 * low, 0.5 * (low + high), 1.02 * high])
    assert loop.window == pytest.approx((low, high), rel=1e-3)
    assert loop.throughput[:2] == pytest.approx(loop.arrival_rate[:2], rel=2e-3)
    assert loop.throughput[2:4] == pytest.approx(low, rel=1e-3)
    assert loop.throughput[4] == pytest.approx(loop.arrival_rate[4], rel=2e-3)
    for rate, length in zip(loop.arrival_rate[:2], (loop.end - loop.start)[:2], strict=True):
        batch = float(loop.solution("batch_duration", loop.end[loop.arrival_rate == rate][0]))
        assert fluid.healthy_batch_time(ALIKE, TABULATED, rate) == pytest.approx(batch, rel=0.01)
        assert length > 0.99 * 100 * 20 * batch


@pytest.mark.parametrize("change", [{"mode": "swapping"}, {"admission_threshold": 0.5}])
def test_no_loop_without_loss(change):
    loop = ode.hysteresis(ALIKE, replace(KNOWN, **change))
    assert loop.window is None
    assert loop.gap < 2e-3


def test_a_sweep_needs_rates_that_increase():
    for rates in ([5.0], [4.0, 3.0], [0.0, 1.0]):
        with pytest.raises(FluidServeError, match="increase"):
            ode.hysteresis(ALIKE, KNOWN, rates)
    with pytest.raises(FluidServeError, match="dwell"):
        ode.hysteresis(ALIKE, KNOWN, dwell=0.0)


BISTABLE = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=100_000, B=None, mode="sacrifice")


@pytest.mark.parametrize(("load", "drains"), [(0.95, False), (0.6, False), (0.5, True)])
def test_check_11_by_the_fluid(load, drains):
    mix = RequestMix.from_lengths([10], [100])
    full = fluid.capacity(mix, BISTABLE)
    theta = ode.collapsed_throughput(mix, BISTABLE)
    assert theta.throughput / full == pytest.approx(0.55, abs=1e-3)

    def marched(waiting, end):
        profile = RateProfile.constant(load * full, end)
        start = ode.InitialState(waiting=waiting)
        return ode.solve(profile, mix, BISTABLE, initial=start, drain=False).trajectory

    healthy = marched(0.0, 5e4)
    assert healthy("evicted", 5e4) == 0
    assert healthy.rate("completed", 2.5e4, 5e4) == pytest.approx(load * full, rel=0.01)
    end = 3e6 if drains else 2e5
    queued = marched(20_000.0, end)
    assert queued.rate("completed", 1e5, 2e5) == pytest.approx(theta.throughput, rel=1e-3)
    if drains:  # 20,000 requests at 0.05 of capacity
        assert 1.9e6 < 20_000 / ((0.55 - load) * full) < 2.6e6
        assert queued("in_system", end) < 100
    else:
        assert queued("in_system", end) > queued("in_system", 1e5) > queued("in_system", 1.0)


@pytest.mark.parametrize(
    ("mix", "mode", "load", "expected"),
    [
        (ALIKE, "sacrifice", 0.7, "healthy"),
        (ALIKE, "sacrifice", 0.77, "bistable"),
        (ALIKE, "sacrifice", 0.99, "bistable"),
        (ALIKE, "sacrifice", 1.0, "limit_cycle"),
        (ALIKE, "swapping", 0.99, "healthy"),
        (ALIKE, "swapping", 1.2, "limit_cycle"),
        (geometric(20, 20.0), "sacrifice", 0.99, "healthy"),
        (geometric(20, 20.0), "sacrifice", 1.2, "backlogged"),
    ],
)
def test_regimes(mix, mode, load, expected):
    node = replace(KNOWN, mode=mode)
    assert ode.regime(mix, node, load * fluid.capacity(mix, node)) == expected
    assert expected in ode.REGIMES


def test_a_budget_below_memory_is_not_bistable():
    # who waits for the batch has decoded nothing yet: evicting the youngest wastes nothing
    node = replace(KNOWN, B=5_000)
    assert ode.regime(ALIKE, node, 0.95 * fluid.capacity(ALIKE, node)) == "healthy"


def test_choice_of_the_threshold():
    def at(rate, **options):
        return ode.choose_threshold(ALIKE, KNOWN, rate, **options)

    assert at(3.5).threshold == 1.0  # theta_sac is 3.9
    for rate in (4.0, 4.4, 4.9):
        found = at(rate)
        assert 0.5 < found.threshold < 1 and found.throughput >= 1.01 * rate
        larger = replace(KNOWN, admission_threshold=found.threshold + 0.005)
        assert ode.collapsed_throughput(ALIKE, larger).throughput < 1.01 * rate
    tight = at(5.1)
    assert tight.threshold == tight.without_eviction == 0.5
    assert tight.throughput > 5.1 and "never evicts" in tight.reason
    assert at(4.9, horizon=1e5).threshold == 1.0 > at(4.9, horizon=1e10).threshold
    assert ode.choose_threshold(ALIKE, replace(KNOWN, mode="swapping"), 5.1).threshold == 1.0
    with pytest.raises(SolveError, match="not below the capacity"):
        at(5.2)
    with pytest.raises(FluidServeError, match="> 0"):
        at(4.0, horizon=0.0)


mixes = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 40), st.floats(0.05, 1.0)), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(parts=mixes, load=st.floats(0.3, 2.0), queue=st.floats(0.0, 2000.0))
def test_below_the_safe_threshold_the_fluid_never_evicts(parts, load, queue):
    p, lengths, weight = (np.array(column) for column in zip(*parts, strict=True))
    mix = RequestMix.from_lengths(p, lengths, weight)
    node = replace(KNOWN, B=None, M_total=20_000)
    kappa = fluid.threshold_without_eviction(mix, node, deviations=0.0)
    assert 0 < kappa <= 1
    safe = replace(node, admission_threshold=kappa)
    rate = load * fluid.capacity(mix, safe)
    profile = RateProfile.steps([0.0, 40.0], [3 * rate, rate], 120.0)
    found = ode.solve(profile, mix, safe, initial=ode.InitialState(waiting=queue), drain=False)
    assert found.trajectory.outputs["evicted"][-1] <= 1e-6


@pytest.mark.parametrize("memory", [10_000, 10_010, 777])
def test_the_safe_threshold_of_one_length_is_sharp(memory):
    node = replace(KNOWN, M_total=memory, B=None)
    kappa = fluid.threshold_without_eviction(ALIKE, node)
    assert kappa == pytest.approx(memory // 40 * 20 / memory)
    just_more = replace(node, admission_threshold=min(1.0, kappa * (1 + 60 / memory)))
    found = ode.collapsed_throughput(ALIKE, just_more)
    assert found.evictions_per_completion > 0
    assert not ode.collapsed_throughput(
        ALIKE, replace(node, admission_threshold=kappa)
    ).evictions_per_completion
