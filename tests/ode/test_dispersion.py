"""Arrivals that are not Poisson: their scatter in the model of one node, and in every label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import capacity, request_work, work_closure
from fluid.node_work.crowds import crowd_jumps
from ode import solve, stationary
from ode.node_work.forward import equilibrium
from ode.node_work.generator import generator, grid_of, levels_of
from ode.node_work.latencies import met_by_arrivals
from ode.node_work.windows import WINDOWS, dispersion_within, edges_of
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix, WorkloadError
from studies import Question
from studies.steady_node import steady_run
from workload import describe

MIX = RequestMix.from_lengths([40, 170], [25, 90], [0.8, 0.2])
NODE = DecodeNode()
SPREADS = [0.1, 0.25, 2.0, 4.0]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 300), min_size=3, max_size=3),
    st.lists(st.integers(1, 200), min_size=3, max_size=3, unique=True),
    st.floats(0.05, 6.0),
)
def test_a_crowd_has_the_mean_and_second_moment_of_a_geometric_number(prefill, decode, crowd):
    jumps = request_work(RequestMix.from_lengths(prefill, decode)).jumps
    crowds = crowd_jumps(jumps, crowd)
    assert crowds.probability.sum() == pytest.approx(1.0)
    mean = jumps.work @ jumps.probability
    spread = jumps.work**2 @ jumps.probability - mean**2
    size = 1.0 + crowd
    assert crowds.work @ crowds.probability == pytest.approx(size * mean)
    second = size * spread + (2 * size**2 - size) * mean**2
    # bins keep their means and lose what is within them; steps add up to a quarter of their square
    assert crowds.work**2 @ crowds.probability == pytest.approx(second, rel=0.03)


def problem(load: float, dispersion: float, node: DecodeNode = NODE):
    rate = load * capacity(MIX, node)
    closure = work_closure(MIX, node, rate, dispersion)
    work, uniform = grid_of(closure, 20 * closure.set_mean)
    levels = levels_of(closure, work, uniform)
    return closure, levels


@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("dispersion", SPREADS)
def test_work_arrives_with_the_mean_and_variance_of_the_arrivals(n, dispersion):
    closure, levels = problem(0.9, dispersion, NODE.scaled(n))
    band, below = generator(levels, closure, closure.rate)
    n_levels, width = band.shape
    v, i, j = levels.work, np.arange(n_levels)[:, None], np.arange(width)[None, :] - below
    source = i + j
    inside = (source >= 0) & (source < n_levels)
    moved = np.where(inside, v[i] - v[np.clip(source, 0, n_levels - 1)], 0.0)
    drift, variance = np.zeros(n_levels), np.zeros(n_levels)
    np.add.at(drift, np.clip(source, 0, n_levels - 1), np.where(inside, band * moved, 0.0))
    np.add.at(variance, np.clip(source, 0, n_levels - 1), np.where(inside, band * moved**2, 0.0))
    middle = slice(20, int(0.6 * n_levels))
    gain = closure.rate * closure.work.mean
    assert np.abs(drift - (gain - levels.service))[middle].max() < 0.03 * gain
    expected = closure.rate * closure.variance
    # second-order upwind leaves a variance of its own; bins of crowds lose some
    assert np.abs(variance[middle] / expected - 1).max() < 0.2


@pytest.mark.parametrize("dispersion", [0.5, 3.0])
def test_constant_service_has_the_mean_work_of_a_queue_with_such_arrivals(dispersion):
    """``E[V] = rate variance / (2 spare)``, exact for Poisson crowds."""
    closure, levels = problem(0.7, dispersion)
    r = closure.saturation.batch_tokens / closure.saturation.batch_time
    levels.service[1:] = r
    law = equilibrium(*generator(levels, closure, closure.rate))
    spare = r - closure.rate * closure.work.mean
    expected = closure.rate * closure.variance / (2 * spare)
    assert law @ levels.work == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("dispersion", SPREADS)
def test_an_arrival_meets_the_requests_of_its_crowd_as_well(dispersion):
    closure, levels = problem(0.9, dispersion)
    law = equilibrium(*generator(levels, closure, closure.rate))
    met = met_by_arrivals(closure, levels.work, law)
    assert met.sum() == pytest.approx(law.sum())
    expected = 0.5 * (dispersion - 1.0) * closure.work.mean
    # a node that is empty or nearly so cannot hold less
    allowed = 0.02 * expected if dispersion > 1 else 0.15 * abs(expected)
    assert (met - law) @ levels.work == pytest.approx(expected, abs=allowed)
    if dispersion < 1:
        assert met[0] == pytest.approx(law[0])
    poisson, same = problem(0.9, 1.0)
    law = equilibrium(*generator(same, poisson, poisson.rate))
    assert met_by_arrivals(poisson, same.work, law) is law


@pytest.mark.parametrize(("burstiness", "bound"), [(0.25, 0.12), (4.0, 0.15)])
def test_the_mean_ttft_of_bursty_and_regular_arrivals_is_that_of_the_engine(burstiness, bound):
    """Taken as Poisson it was 18.3, where the engine has 50 and 11."""
    question = Question(describe("normal", burstiness=burstiness), NODE, seed=3).at_load(0.8)
    runs = [steady_run(question, 100_000, seed)["ttft"].mean() for seed in range(4)]
    error = np.std(runs, ddof=1) / 2
    mix, rate = question.mix, question.mean_rate
    found = stationary(mix, NODE, rate, dispersion=question.dispersion).latencies["ttft"].mean
    assert found == pytest.approx(np.mean(runs), rel=bound, abs=2 * error)
    as_poisson = stationary(mix, NODE, rate).latencies["ttft"].mean
    assert abs(as_poisson / np.mean(runs) - 1) > 2 * bound


def test_bursts_last_over_time_as_well():
    rate = 0.8 * capacity(MIX, NODE)
    profile = RateProfile.constant(rate, 4e4)
    for dispersion in (0.25, 4.0):
        scattered = RateProfile(profile.time, profile.cumulative, dispersion)
        over_time = solve(scattered, MIX, NODE, method="node_work").metrics().latencies
        steady = stationary(MIX, NODE, rate, dispersion=dispersion).latencies
        for name in ("ttft", "e2el"):
            assert over_time[name].mean == pytest.approx(steady[name].mean, rel=0.06)


LARGE = RequestMix.from_lengths([3000], [200])
MOE = BatchTimeLaw.tabulated([(1, 0.005), (16, 0.042), (128, 0.046)], 6e-8)


@pytest.mark.parametrize(
    ("mix", "node", "said"),
    [
        (MIX, NODE, ""),
        (MIX, DecodeNode(mode="sacrifice"), "sacrifices repeat"),
        (MIX, NODE.scaled(1000), "more than the levels"),
        (LARGE, DecodeNode(B=None), "of the memory"),
        (MIX, DecodeNode(MOE, M_total=12_000, B=10_000), "steeply"),
    ],
    ids=["plain", "sacrifice", "large", "large request", "steep table"],
)
@pytest.mark.parametrize("dispersion", [1.0, 3.0, 20.0])
def test_equilibrium_and_time_carry_the_same_labels(mix, node, said, dispersion):
    rate = (0.1 if said == "steeply" else 0.3) * capacity(mix, node)
    steady = stationary(mix, node, rate, dispersion=dispersion).labels
    curve = RateProfile.constant(rate, 20 / rate)
    profile = RateProfile(curve.time, curve.cumulative, dispersion)
    assert solve(profile, mix, node, method="node_work").labels == steady
    assert (
        any(said in label for label in steady)
        if said
        else len(steady) == ({1.0: 0, 3.0: 1, 20.0: 2}[dispersion])
    )
    busy = stationary(mix, node, 0.9 * capacity(mix, node), dispersion=dispersion).labels
    assert not any("steeply" in label for label in busy)
    assert any("not Poisson" in label for label in steady) == (dispersion != 1)
    assert any("beyond what was compared" in label for label in steady) == (dispersion > 4)


def test_a_fluid_limit_says_that_it_sees_no_burstiness():
    for burstiness, than in ((0.25, "longer"), (4.0, "shorter")):
        profile = describe("normal", burstiness=burstiness).profile(100.0)
        (label,) = solve(profile, MIX, NODE).labels
        assert "burstiness" in label and than in label
        assert solve(profile.scaled(0.5).stretched(2.0), MIX, NODE).labels == (label,)
    assert solve(describe("normal").profile(100.0), MIX, NODE).labels == ()


def test_scatter_of_a_curve():
    rng = np.random.default_rng(5)
    edges = np.linspace(0.0, 2000.0, 21)
    straight = RateProfile.steps([0.0, 1000.0], [1.0, 3.0], 2000.0)
    assert straight.scatter(edges) == pytest.approx(0.0, abs=1e-9)
    poisson = RateProfile.from_arrivals(np.sort(rng.uniform(0, 2000.0, 8000)))
    assert poisson.scatter(edges) == pytest.approx(1.0, abs=0.3)
    pairs = RateProfile.from_arrivals(np.sort(np.repeat(rng.uniform(0, 2000.0, 4000), 2)))
    assert pairs.scatter(edges) == pytest.approx(2.0, abs=0.6)
    even = RateProfile.from_arrivals(np.arange(1, 8001) / 4)
    assert even.scatter(edges) < 0.1
    # by hand: 3 and 1 arrivals in the halves of one interval
    uneven = RateProfile.steps([0.0, 1.0], [3.0, 1.0], 2.0)
    assert uneven.scatter([0.0, 2.0], 2) == pytest.approx((1 + 1) / 4 * 2)
    with pytest.raises(WorkloadError, match="dispersion"):
        RateProfile(straight.time, straight.cumulative, -1.0)


def test_given_times_are_read_with_their_own_scatter():
    for burstiness, low, high in ((0.2, 3.0, 7.0), (1.0, 1.0, 1.0), (10.0, 0.0, 0.5)):
        workload = describe("normal", burstiness=burstiness)
        requests = workload.sample(3, num_requests=8000)
        question = Question(requests, NODE)
        assert low <= question.dispersion <= high
        profile = question.profile
        assert profile.dispersion == 0.0
        assert low <= dispersion_within(profile, edges_of(profile, profile.horizon)) <= high
    few = Question(describe("normal").sample(3, num_requests=20), NODE)
    assert few.dispersion == 1.0


def test_windows_follow_a_rate_that_changes_within_them():
    steady = RateProfile.constant(2.0, 5000.0)
    slow = describe(rate_shape="sine(amplitude=0.5,period=5000)").profile(5000.0)
    bursts = describe("bursty").profile(5000.0)
    fast = describe(rate_shape="sine(amplitude=0.9,period=20)").profile(5000.0)
    sizes = [edges_of(profile, 5000.0).size - 1 for profile in (steady, slow, bursts, fast)]
    assert sizes[0] == 1 and sizes[1] == WINDOWS and sizes[2] == 100 and sizes[3] == 384
    for profile in (steady, slow, bursts):
        assert dispersion_within(profile, edges_of(profile, 5000.0)) == 1.0
    assert dispersion_within(fast, edges_of(fast, 5000.0)) > 1.0
    crowd = RateProfile(np.array([0.0, 50.0, 50.0, 100.0]), np.array([0.0, 50.0, 450.0, 500.0]))
    assert dispersion_within(crowd, edges_of(crowd, 100.0)) == 1.0
