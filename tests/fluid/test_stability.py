"""Stability of the memory-full equilibrium against brute force, stated values and the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import gamma

from discrete import simulate
from fluid import certificate, largest_root, ode_is_stable, survival_polynomial, worst_cycle
from fluid._survival_polynomial import _largest_by_argument, zeros_within
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable, UnsupportedError

KNOWN = BatchTimeLaw.per_token(0.003, 0.00032)
CYCLES = {(2, 2): 0.8750, (5, 5): 0.8000, (10, 20): 0.6833, (1, 50): 0.5196,
          (100, 50): 0.8367, (50, 20): 0.8643}  # fmt: skip


def one_prefill(p, lengths, weight=None) -> RequestMix:
    return RequestMix.from_lengths(np.full(len(lengths), p), lengths, weight)


def gamma_lengths(p: float, cv: float, mean: float = 40.0) -> RequestMix:
    """Return gamma lengths rounded up to whole tokens."""
    shape = 1 / cv**2
    edge = np.arange(int(gamma.ppf(1 - 1e-12, shape, scale=mean / shape)) + 3)
    mass = np.diff(gamma.cdf(edge, shape, scale=mean / shape))
    return one_prefill(p, edge[1:][mass > 0], mass[mass > 0])


def stage_spectrum(p: int, length: int) -> float:
    """Return the largest Re of the stage equations of one length kept full, per iteration.

    From ``d(sum (p+i) X_i)/dt = 0``: admissions ``S`` hold ``(p+1) S tau = (p+D) X_D - sum_{i<D}
    X_i``. That the held tokens are conserved adds an eigenvalue 0, which is left out.
    """
    a = np.diag(-np.ones(length)) + np.diag(np.ones(length - 1), -1)
    a[0, :-1] -= 1 / (p + 1)
    a[0, -1] += (p + length) / (p + 1)
    values = np.linalg.eigvals(a)
    conserved = np.argmin(abs(values))
    assert abs(values[conserved]) < 1e-9
    return float(np.delete(values, conserved).real.max())


@pytest.mark.parametrize(
    ("p", "lengths", "expected"),
    [(100, (4, 6), 1.00975), (100, (5, 6), 0.97863), (100, (4, 7), 0.97961), (10, (4, 7), 1.046)],
)
def test_check_8(p, lengths, expected):
    found = certificate(one_prefill(p, lengths), DecodeNode(B=None))
    assert found.max_root == pytest.approx(expected, abs=1e-5 if p == 100 else 5e-4)
    assert found.stable == (expected < 1)


@pytest.mark.parametrize(("length", "expected"), [(20, -0.00267), (30, 0.01710)])
def test_check_9(length, expected):
    c = survival_polynomial(one_prefill(10, [length]))
    assert np.roots(c).real.max() - 1 == pytest.approx(expected, abs=1e-5)
    assert stage_spectrum(10, length) == pytest.approx(expected, abs=1e-5)
    assert ode_is_stable(c) == (expected < 0)


@pytest.mark.parametrize(
    ("p", "first"), [(0, 14), (5, 18), (10, 21), (20, 27), (50, 38), (100, 50)]
)
def test_first_instability_of_the_ode(p, first):
    stable = [ode_is_stable(survival_polynomial(one_prefill(p, [d]))) for d in range(2, first + 1)]
    assert stable == [True] * (first - 2) + [False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "discrete", "ode"),
    [(0.1, 0.282, 0.225), (0.5, 0.229, 0.160), (1, 0.187, 0.095), (2, 0.145, 0), (5, 0.097, 0),
     (10, 0.070, 0)],
)  # fmt: skip
def test_critical_variation_of_gamma_lengths(ratio, discrete, ode):
    def poly(cv):
        return survival_polynomial(gamma_lengths(40 * ratio, cv))

    step = 0.0006
    assert abs(largest_root(poly(discrete - step))) > 1 > abs(largest_root(poly(discrete + step)))
    if ode:
        assert not ode_is_stable(poly(ode - step))
        assert ode_is_stable(poly(ode + step))
    else:
        assert ode_is_stable(poly(0.01))


def test_geometric_lengths_are_always_stable():
    for p, mean in ((0, 2.0), (10, 20.0), (200, 40.0)):
        d = np.arange(1, int(27 * mean))
        mix = one_prefill(p, d, (1 - 1 / mean) ** d)
        assert certificate(mix, DecodeNode(B=None, mode="sacrifice")).stable


lengths_strategy = st.lists(
    st.tuples(st.integers(0, 100), st.integers(2, 150), st.floats(0.01, 1)), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=60)
@example([(11, 93, 1.0)])  # three pairs of zeros within 2e-7 of one circle
@given(lengths_strategy)
def test_argument_principle_agrees_with_all_roots(atoms):
    """Prefill may depend on the decode length: every atom has its own."""
    c = survival_polynomial(RequestMix.from_lengths(*zip(*atoms, strict=True)))
    z = np.roots(c)
    root = _largest_by_argument(c)
    assert abs(root) == pytest.approx(abs(z).max(), rel=1e-7)
    assert abs(z - root).min() < 1e-6 * abs(root)
    radius = 1 / np.sort(abs(z))[::-1]
    for place in np.flatnonzero(radius[1:] > radius[:-1] * (1 + 1e-3))[:5]:
        between = float(np.sqrt(radius[place] * radius[place + 1]))
        assert zeros_within(c, between) == place + 1
    if abs(z.real - 1).min() > 1e-6:
        assert ode_is_stable(c) == (z.real < 1).all()


@settings(deadline=None, max_examples=40)
@given(lengths_strategy)
def test_the_root_is_how_deviations_grow(atoms):
    """Brute force: iterate the recursion of admissions that keeps the node full."""
    c = survival_polynomial(RequestMix.from_lengths(*zip(*atoms, strict=True)))
    past = np.zeros(c.size - 1)
    past[0] = 1.0
    logs, total = [], 0.0
    for _ in range(40 * c.size):
        past = np.append(-(c[1:] @ past) / c[0], past[:-1])
        size = np.linalg.norm(past)
        total += np.log(size)
        past /= size
        logs.append(total)
    half = len(logs) // 2
    grown = np.exp((logs[-1] - logs[half]) / (len(logs) - 1 - half))
    assert grown == pytest.approx(abs(largest_root(c)), rel=0.5 / c.size)


def test_thousands_of_stages():
    rng = np.random.default_rng(0)
    d = np.clip(rng.lognormal(5.5, 0.8, 4000).astype(int), 1, 3000)
    mix = RequestMix.from_lengths(rng.integers(1, 500, d.size), d)
    found = certificate(mix, DecodeNode(B=None))
    assert found.stable
    assert 0.99 < found.max_root < 1
    long = RequestMix.from_lengths([1000], [3000])
    found = certificate(long, DecodeNode(M_total=10**6, B=None))
    c = survival_polynomial(long)
    z = largest_root(c)
    assert abs(np.polyval(c / c.sum(), z)) < 1e-9
    assert not found.stable
    assert not found.ode_blind  # from D = 14..50 on, the ODE sees it as well


@pytest.mark.parametrize(("pair", "ratio"), CYCLES.items())
def test_checks_6_and_7_ratio_of_the_cycle(pair, ratio):
    p, d = pair
    mix = RequestMix.from_lengths([p], [d])
    node = DecodeNode(M_total=10**5, B=None, mode="sacrifice")
    cycle = worst_cycle(mix, node)
    assert cycle.throughput_per_iteration / (1e5 / mix.work) == pytest.approx(ratio, abs=5e-5)
    assert cycle.evictions_per_completion == pytest.approx((d - 1) / (p + 1))
    found = certificate(mix, node)
    assert not found.stable
    assert found.cycle_loss == pytest.approx((d - 1) / (2 * (p + d)))
    assert found.theta_sac == cycle.throughput


def backlogged(p, d, node, count):
    """Return completions per batch and per time from a backlog, over whole periods of D."""
    table = RequestTable.validated(np.zeros(count), np.full(count, p), np.full(count, d))
    rows, first = simulate(table, node).batches, 10 * d
    done, end = rows["completed_count"], rows["time"]
    last = first + (int(0.8 * done.size) - first) // d * d
    completed = done[last] - done[first]
    return completed / (last - first), completed / (end[last] - end[first])


@pytest.mark.parametrize(("pair", "ratio"), CYCLES.items())
def test_the_engine_runs_the_cycle(pair, ratio):
    p, d = pair
    memory = 200 * (p + 1) * (p + d)
    node = DecodeNode(KNOWN, M_total=memory, B=None, mode="sacrifice")
    per_batch, _ = backlogged(p, d, node, 50 * memory // (p + d))
    work = p * d + d * (d + 1) / 2
    assert per_batch / (memory / work) == pytest.approx(ratio, rel=0.003)


@pytest.mark.parametrize("kappa", [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
def test_known_experiment_by_threshold(kappa):
    """Completions per time from a backlog, stated in section 5, and the closed form's."""
    stated = {1.0: 3.9, 0.9: 3.9, 0.8: 4.0, 0.7: 4.1, 0.6: 4.5, 0.5: 5.1}[kappa]
    node = DecodeNode(KNOWN, M_total=10000, B=10000, mode="sacrifice", admission_threshold=kappa)
    theta = worst_cycle(RequestMix.from_lengths([20], [20]), node).throughput
    assert theta == pytest.approx(stated, abs=0.051)
    _, measured = backlogged(20, 20, node, 30_000)
    assert theta == pytest.approx(measured, rel=0.005)


def test_known_experiment():
    mix = RequestMix.from_lengths([20], [20])
    node = DecodeNode(KNOWN, M_total=10000, B=10000, mode="sacrifice")
    assert worst_cycle(mix, node).throughput == pytest.approx(3.9026, abs=5e-5)
    whole = worst_cycle(mix, node, whole_requests=True)
    assert whole.throughput == pytest.approx(3.9072, abs=5e-5)
    assert whole.completed == 250
    found = certificate(mix, node)
    assert found.ode_blind
    assert found.message == (
        "limit cycle: expect up to 23.8 % loss; the ODE is blind here: use the Lagrangian engine"
    )


def test_without_prompts_an_admission_threshold_does_not_hold_a_cycle_back():
    mix, node = RequestMix.from_lengths([0], [25]), DecodeNode(B=None, mode="sacrifice")
    assert worst_cycle(mix, replace(node, admission_threshold=0.5)) == worst_cycle(mix, node)


def test_no_number_where_there_is_no_closed_form():
    deterministic, mixed = RequestMix.from_lengths([20], [20]), one_prefill(20, [18, 22])
    swapping = DecodeNode(KNOWN, M_total=10000, B=10000)
    sacrifice = DecodeNode(KNOWN, M_total=10000, B=10000, mode="sacrifice")
    for mix, node, words in (
        (deterministic, swapping, "swapping"),
        (mixed, sacrifice, "mixed lengths"),
        (deterministic, DecodeNode(KNOWN, mode="sacrifice", B=2000), "budget B"),
    ):
        found = certificate(mix, node)
        assert not found.stable
        assert found.theta_sac is None
        assert found.cycle_loss is None
        assert words in found.message
        with pytest.raises(UnsupportedError, match=words):
            worst_cycle(mix, node)
    one_token = certificate(RequestMix.from_lengths([20], [1]), sacrifice)
    assert one_token.stable
    assert one_token.max_root == 0
