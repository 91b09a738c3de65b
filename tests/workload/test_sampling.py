"""Draws against the exact mix and expected arrivals they come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from serving import ConfigError, RateProfile, RequestMix, RequestTable, WorkloadError
from workload import Constant, Curve, Ramp, Sine, Steps, describe, generate, replicated
from workload.arrivals import crossing_times, unit_renewals

SHAPES = [
    Constant(),
    Steps((0, 100, 200), (0.5, 1.5, 0.5)),
    Steps((0, 20), (4, 0.25), period=100),
    Sine(0.9, 60),
    Ramp(0.0, 2.0, 300),
]


PINNED_PREFILL = [39, 12, 47, 16]
PINNED_DECODE = [34, 39, 39, 36]
PINNED_ARRIVAL = [
    "3.974754237132429",
    "4.529281732428571",
    "11.060558129037531",
    "11.400692041020372",
]


def same(one: RequestTable, other: RequestTable) -> bool:
    mine, others = one.arrays(), other.arrays()
    return mine.keys() == others.keys() and all(
        mine[name].tobytes() == others[name].tobytes() for name in mine
    )


@pytest.mark.parametrize("scenario", ["normal", "heavy", "bursty"])
def test_same_seed_same_bytes_and_another_seed_others(scenario):
    draw = [generate(scenario, num_requests=500, seed=seed) for seed in (7, 7, 8)]
    assert same(draw[0], draw[1])
    assert not same(draw[0], draw[2])


def test_bytes_of_a_seed_do_not_change_between_versions():
    draw = generate("normal", num_requests=4, seed=42)
    assert draw.prefill_length.tolist() == PINNED_PREFILL
    assert draw.decode_length.tolist() == PINNED_DECODE
    assert [repr(float(t)) for t in draw.arrival_time] == PINNED_ARRIVAL


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    few=st.integers(1, 300),
    burstiness=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_a_longer_draw_begins_with_the_shorter_one(seed, few, burstiness):
    workload = describe("normal", burstiness=burstiness)
    short = workload.sample(seed, num_requests=few)
    long = workload.sample(seed, num_requests=9000)
    assert same(short, long.take(np.arange(few)))
    by_time = workload.sample(seed, horizon=float(long.arrival_time[few]))
    assert by_time.arrival_time[:few] == pytest.approx(short.arrival_time, rel=1e-12)
    assert (by_time.decode_length[:few] == short.decode_length).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("burstiness", [0.25, 1.0, 5.0])
def test_expected_arrivals_are_those_of_the_profile(shape, burstiness):
    workload = describe("normal", arrival_rate=1.0, burstiness=burstiness, rate_shape=shape)
    profile = workload.profile(400.0)
    edges = np.array([60.0, 130.0, 210.0, 320.0, 400.0])
    counts = np.array(
        [
            np.searchsorted(workload.sample(seed, horizon=400.0).arrival_time, edges, "right")
            for seed in range(300)
        ]
    )
    error = counts.mean(0) - profile.count(edges)
    assert (np.abs(error) < 4.5 * counts.std(0) / np.sqrt(300) + 1e-9).all()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 5.0])
def test_gaps_in_rescaled_time_are_gamma_of_the_given_shape(burstiness):
    workload = describe("normal", arrival_rate=3.0, burstiness=burstiness, rate_shape=Sine(0.9, 60))
    draw = workload.sample(11, num_requests=20_000)
    points = workload.profile(draw.horizon * 1.001).count(draw.arrival_time)
    gaps = np.diff(points)
    law = stats.gamma(burstiness, scale=1 / burstiness)
    assert stats.kstest(gaps, law.cdf).pvalue > 1e-3


def test_first_point_has_the_equilibrium_law():
    first = [
        unit_renewals(np.random.default_rng(seed), 0.5, lambda u: True)[0] for seed in range(4000)
    ]
    gap = stats.gamma(0.5, scale=2.0)
    grid = np.linspace(0, 200, 400_001)
    cdf = np.append(0, np.cumsum(gap.sf((grid[1:] + grid[:-1]) / 2)) * (grid[1] - grid[0]))
    assert stats.kstest(first, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3


@pytest.mark.parametrize("scenario", ["normal", "heavy"])
def test_drawn_lengths_have_the_frequencies_of_the_exact_mix(scenario):
    workload = describe(scenario)
    draw = workload.sample(3, num_requests=200_000)
    mix, drawn = workload.mix, draw.mix()
    index = {
        key: i
        for i, key in enumerate(
            zip(mix.request_class, mix.prefill.astype(int), mix.decode, strict=True)
        )
    }
    observed = np.zeros(len(mix))
    for c, p, d, share in zip(
        drawn.request_class, drawn.prefill.astype(int), drawn.decode, drawn.probability, strict=True
    ):
        observed[index[(c, p, d)]] = share * len(draw)
    assert stats.chisquare(observed, mix.probability * len(draw)).pvalue > 1e-3


def test_arrivals_and_lengths_are_independent():
    draw = generate("normal", num_requests=50_000, seed=5)
    gaps = np.diff(draw.arrival_time)
    assert abs(np.corrcoef(gaps, draw.decode_length[1:])[0, 1]) < 4.5 / np.sqrt(50_000)


def test_scenarios_are_what_they_are_called():
    normal, heavy, bursty = (describe(name) for name in ("normal", "heavy", "bursty"))
    assert normal.mix.mean_prefill == pytest.approx(0.8 * 35 + 0.2 * 175)
    assert normal.mix.mean_decode == pytest.approx(0.8 * 25 + 0.2 * 90)
    assert heavy.mix.mean_prefill == pytest.approx(0.8 * 75 + 0.2 * 275)
    assert heavy.mix.mean_decode == pytest.approx(0.8 * 35 + 0.2 * 140)
    assert (normal.rate, heavy.rate, bursty.rate) == (0.5, 2.0, 0.5)
    edges = np.array([0, 20, 100, 120, 200.0])
    rates = bursty.profile(200.0).mean_rate_between(edges)
    assert rates == pytest.approx([2.0, 0.125, 2.0, 0.125])
    assert len(generate()) == 100
    assert normal.class_names == ("short", "long")


def test_types_are_streams_with_the_shares_of_their_rates():
    workload = describe(types="(20,20,5.1); (10,40,1.7)")
    assert workload.rate == pytest.approx(6.8)
    assert workload.mix.probability == pytest.approx([0.75, 0.25])
    assert workload.mix.prefill.tolist() == [20, 10] and workload.mix.decode.tolist() == [20, 40]
    draw = workload.sample(1, horizon=2000.0)
    assert len(draw) == pytest.approx(13_600, abs=4.5 * np.sqrt(13_600))


@pytest.mark.parametrize(
    "text", ["", "20,20,5", "(20,20)", "(20,20,1,1)", "(0,2,1)", "(2,0,1)", "(2,2,0)", "(2,2,-1)",
             "(2,2,nan)", "(2,2,inf)", "(a,2,1)", "(2.5,2,1)", "(2,2,1);;(2,2,1)", "(2,2,1"],
)  # fmt: skip
def test_types_that_cannot_be_read_are_refused_by_name(text):
    with pytest.raises(ConfigError, match="config key 'types'"):
        describe(types=text)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"scenario": "calm"}, "scenario"),
        ({"arrival_rate": float("nan")}, "arrival_rate"),
        ({"arrival_rate": 0.0}, "arrival_rate"),
        ({"arrival_rate": -1.0}, "arrival_rate"),
        ({"arrival_rate": float("inf")}, "arrival_rate"),
        ({"burstiness": 0.0}, "burstiness"),
        ({"scale": 0}, "scale"),
        ({"num_requests": 0}, "num_requests"),
        ({"num_requests": 2.5}, "num_requests"),
        ({"horizon": -1.0}, "horizon"),
        ({"seed": -1}, "seed"),
        ({"types": "(1,1,1)", "arrival_rate": 2.0}, "arrival_rate"),
        ({"types": "(1,1,1)", "lengths": RequestMix.from_lengths([1], [1])}, "types"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, key):
    with pytest.raises(ConfigError, match=f"config key '{key}'"):
        generate(**options)


def test_a_draw_needs_one_measure_of_how_long_and_some_arrivals():
    workload = describe()
    with pytest.raises(WorkloadError, match="either num_requests or horizon"):
        workload.sample(1)
    with pytest.raises(WorkloadError, match="either num_requests or horizon"):
        workload.sample(1, num_requests=1, horizon=1.0)
    with pytest.raises(WorkloadError, match="no request arrives"):
        workload.sample(1, horizon=1e-9)


def test_a_rate_that_dries_up_cannot_give_more_requests():
    workload = describe(arrival_rate=1.0, rate_shape=Steps((0, 10), (1, 0)))
    assert len(workload.sample(1, num_requests=2)) == 2
    with pytest.raises(WorkloadError, match="gives 10 expected arrivals in all"):
        workload.sample(1, num_requests=1000)


def test_scaling_stretching_and_filtering_change_what_they_say():
    workload = describe("bursty", L_filter=50)
    assert workload.mix.longest_decode == 40 and workload.rate == pytest.approx(0.4)
    assert describe(scale=10).rate == 5.0 and workload.scaled(2).rate == pytest.approx(0.8)
    assert workload.at_rate(3.0).rate == 3.0
    slow, fast = workload.stretched(2.0), workload
    a, b = slow.sample(3, num_requests=200), fast.sample(3, num_requests=200)
    assert a.arrival_time == pytest.approx(2 * b.arrival_time)
    assert (a.decode_length == b.decode_length).all()


def test_mixes_of_mean_prefill_lengths_cannot_be_drawn_from():
    workload = describe(lengths=RequestMix.from_lengths([1.5], [3]))
    with pytest.raises(WorkloadError, match="mean prefill"):
        workload.sample(1, num_requests=3)


@example(knots=[(1.0, 2.225073858507203e-309)], share=[0.0])
@given(
    knots=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=12),
    share=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_crossing_times_invert_the_profile(knots, share):
    steps = np.array([(0.0, 0.0), *knots, (1.0, 1.0)])
    profile = RateProfile(*np.cumsum(steps, axis=0).T)
    count = np.sort(share) * profile.total
    t = crossing_times(profile, count)
    assert (np.diff(t) >= 0).all() and (t >= 0).all() and (t <= profile.horizon).all()
    tolerance = 1e-9 * (1 + profile.total)
    rate = np.diff(profile.cumulative) / np.maximum(np.diff(profile.time), 1e-300)
    # A steep piece turns a rounding of t into one of the count.
    slack = tolerance + 1e-12 * profile.horizon * rate[np.isfinite(rate)].max(initial=0)
    after, before = profile.count(t + 1e-12), profile.count(np.nextafter(t, -1) - 1e-12)
    assert (after >= count - slack).all() and (before <= count + slack).all()


def test_crossing_beyond_the_profile_is_refused():
    with pytest.raises(WorkloadError, match="3 expected arrivals by time 3"):
        crossing_times(RateProfile.constant(1.0, 3.0), [3.5])
    curve = Curve(RateProfile.constant(1.0, 3.0))
    assert crossing_times(curve.profile(2.0, 8.0), [6.0])[0] == pytest.approx(3.0)


def test_replicating_a_table_multiplies_its_curve_and_keeps_its_pairs():
    table = RequestTable.validated(
        [0, 1, 1, 4], [3, 4, 5, 6], [30, 40, 50, 60], priority=[1, 2, 3, 4]
    )
    assert replicated(table, 1) is table
    many = replicated(table, 5000, seed=9)
    assert (many.arrival_time == np.repeat(table.arrival_time, 5000)).all()
    assert (many.decode_length == 10 * many.prefill_length).all()
    assert (many.priority == many.prefill_length - 2).all()
    assert stats.chisquare(np.bincount(many.priority)[1:]).pvalue > 1e-3
    assert same(many, replicated(table, 5000, seed=9))
    for n in (0, 1.5):
        with pytest.raises(ConfigError, match="scale"):
            replicated(table, n)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_that_follow_each_other_are_the_draws(shape):
    work = describe("normal", arrival_rate=0.05, rate_shape=shape, burstiness=0.6)
    table, rows = work.sample_apart([3, 4, 5], 150.0, 1e4)
    assert rows[0] == 0 and rows[-1] == len(table)
    for k, seed in enumerate((3, 4, 5)):
        alone, part = work.sample(seed, horizon=150.0), slice(rows[k], rows[k + 1])
        np.testing.assert_allclose(
            table.arrival_time[part] - 1e4 * k, alone.arrival_time, rtol=1e-9
        )
        for name in ("prefill_length", "decode_length", "request_class"):
            assert np.array_equal(getattr(table, name)[part], getattr(alone, name))


def test_a_draw_without_requests_is_a_part_without_rows():
    work = describe("normal", arrival_rate=0.01)
    _, rows = work.sample_apart(range(20), 20.0, 1e4)
    assert (np.diff(rows) == 0).any() and (np.diff(rows) > 0).any()
