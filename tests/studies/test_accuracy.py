"""How close the fluid model is, where the replications are quiet enough to tell."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import capacity
from serving import MODES
from studies.accuracy import (
    LOADS,
    SYNCHRONISED_DECODE,
    accuracy_cases,
    controlled_mean,
    finite_size,
    load_case,
    score,
    slope,
    synchronised_case,
)


def test_cases_at_size_n_are_n_times_the_work_in_the_same_time():
    for profile in LOADS:
        one, ten = load_case(profile, 1), load_case(profile, 10)
        asked = [case.question for case in (one, ten)]
        assert asked[1].instance == asked[0].instance.scaled(10)
        rates = [each.stream.rate for each in asked]
        load = [r / capacity(q.mix, q.instance) for r, q in zip(rates, asked, strict=True)]
        assert load == pytest.approx([1.0, 1.0])
        assert rates[1] / rates[0] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("lengths", SYNCHRONISED_DECODE)
def test_synchronised_requests_hold_the_distribution_exactly(lengths):
    case, law = synchronised_case(lengths, 10), SYNCHRONISED_DECODE[lengths]
    table = case.question.requests
    assert len(table) == 15_000 and 0 < table.arrival_time[0] and table.horizon < 10
    assert (table.prefill_length == 20).all()
    value, count = np.unique(table.decode_length, return_counts=True)
    assert (value == law.value).all()
    assert np.abs(count - 15_000 * law.probability).max() <= 1.0
    assert not (np.diff(table.decode_length) >= 0).all()


def test_the_grid_of_cases_is_complete():
    names = {case.name for case in accuracy_cases(1)}
    assert len(names) == len(MODES) * 2 * (len(LOADS) + len(SYNCHRONISED_DECODE))


def test_control_variates_leave_the_mean_and_take_the_noise():
    rng = np.random.default_rng(3)
    controls = rng.normal([5.0, -2.0], [1.0, 4.0], (400, 2))
    values = 7 + controls @ [2.0, -1.0] + rng.normal(0, 0.1, 400)
    mean, error = controlled_mean(values, controls, np.array([5.0, -2.0]))
    truth = 7 + 2 * 5.0 + 2.0
    assert error == pytest.approx(0.1 / 20, rel=0.2)
    assert abs(mean - truth) < 4 * error
    assert values.std() / 20 > 30 * error


def test_control_variates_have_honest_errors():
    rng = np.random.default_rng(4)
    off = []
    for _ in range(500):
        controls = rng.normal(0, 1, (40, 2))
        values = controls @ [1.0, 2.0] + rng.normal(0, 1, 40)
        mean, error = controlled_mean(values, controls, np.zeros(2))
        off.append(mean / error)
    assert np.std(off) == pytest.approx(1.0, abs=0.12)
    assert abs(np.mean(off)) < 4 / np.sqrt(500)


def test_slope_is_the_exponent():
    assert slope([1, 10, 100], [-0.5, -0.05, -0.005]) == pytest.approx(-1.0)


def test_score_reaches_the_noise_floor_that_is_asked_for():
    found = score(load_case("constant", 10), noise_floor=0.03)
    floor = found.comparison.noise_floor["in_system"]
    assert floor <= 0.03 and found.comparison.discrete.replications < 100
    row = found.to_json()
    assert row["methods"]["lagrangian"]["nrmse"]["in_system"] < 0.025 + 2 * floor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "unlimited"), [("constant", False), ("step", True), ("burst", False)]
)
def test_both_clocks_are_close_at_n_100(profile, unlimited):
    case = load_case(profile, 100, unlimited=unlimited)
    found = score(case, ("lagrangian", "eulerian_jax"), noise_floor=0.0025).comparison
    assert found.noise_floor["in_system"] <= 0.0025
    assert found.methods["lagrangian"].nrmse["in_system"] <= 0.005
    assert found.methods["eulerian_jax"].nrmse["in_system"] <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("profile", LOADS)
def test_iteration_clock_is_within_two_and_a_half_percent_at_n_10(profile):
    found = score(load_case(profile, 10), noise_floor=0.005).comparison
    assert found.noise_floor["in_system"] <= 0.005
    assert found.methods["lagrangian"].nrmse["in_system"] <= 0.025


QUIET = [
    (lengths, unlimited, mode)
    for lengths in SYNCHRONISED_DECODE
    for unlimited in (False, True)
    for mode in MODES
    if (lengths, unlimited, mode) != ("bimodal", True, "swapping")  # chaotic: see below
]


@pytest.mark.slow
@pytest.mark.parametrize(("lengths", "unlimited", "mode"), QUIET)
def test_iteration_clock_follows_synchronised_bursts_that_evict(lengths, unlimited, mode):
    found = score(synchronised_case(lengths, 100, unlimited=unlimited, mode=mode)).comparison
    assert found.noise_floor["in_system"] <= 0.0025
    assert found.discrete.run.metrics().evictions > 1000
    result = found.methods["lagrangian"]
    assert result.nrmse["in_system"] <= 0.005
    assert result.nrmse["completed"] <= 0.005


@pytest.mark.slow
def test_a_chaotic_burst_is_nearer_the_fluid_than_one_run_is_to_the_mean():
    # Two lengths, no budget, swapping: an unstable cycle multiplies whatever differs at first,
    # so one run's noise hardly falls with size, where elsewhere it falls like 1/sqrt(n).
    found = {
        n: score(synchronised_case("bimodal", n, unlimited=True), noise_floor=0.002).comparison
        for n in (10, 250)
    }
    noise = {n: each.single_run_noise for n, each in found.items()}
    assert noise[250] > 3 * noise[10] / np.sqrt(25)
    for n, each in found.items():
        assert each.methods["lagrangian"].nrmse["in_system"] < 1.25 * noise[n]


@pytest.mark.slow
def test_bias_falls_like_1_over_n_and_noise_like_its_root():
    points = finite_size((3, 10, 30, 100), replications=lambda n: max(40, 2000 // n))
    sizes = [each.n for each in points]
    for each in points:
        assert each.e2el_bias < -2 * each.e2el_bias_error
    assert slope(sizes, [each.e2el_bias for each in points]) == pytest.approx(-1.0, abs=0.12)
    assert slope(sizes, [each.noise for each in points]) == pytest.approx(-0.5, abs=0.05)
