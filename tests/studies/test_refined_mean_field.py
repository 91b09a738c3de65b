"""The mathematics of the refined mean fields of docs/error_model.md, where answers are known."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.linalg import solve_continuous_lyapunov
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

import fluid
from serving import BatchTimeLaw, DecodeNode, RequestMix

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def designs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("refined_mean_field")


@pytest.fixture(scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("refined_mean_field_accuracy")


@pytest.mark.parametrize(("d_0", "d_n", "rho"), [(1.0, 0.1, 0.5), (1.0, 0.5, 0.8), (3.0, 2.0, 0.9)])
def test_one_phase_is_negative_binomial_and_the_correction_exact(known, d_0, d_n, rho):
    found = known.one_phase(d_0, d_n, rho)
    assert found.correction[0] == pytest.approx(rho / (1 - rho), rel=1e-9)
    exact = known.exact_one_phase(d_0, d_n, rho)
    assert found.point[0] + found.correction[0] == pytest.approx(exact, rel=1e-9)


def test_constant_batches_need_no_correction(known):
    found = known.one_phase(1.0, 0.0, 0.0)
    assert found.point[0] == pytest.approx(5.0, rel=1e-9)
    assert found.correction[0] == pytest.approx(0.0, abs=1e-9)


COMING, D_0, COST, LEAVING = 0.9, 1.0, (0.1, 0.3), (0.8, 0.5)
"""Two phases: arrivals, an empty batch, what each adds to a batch, and how fast each passes."""


def test_two_phases_agree_with_their_chain_and_with_the_clock_of_batches(designs):
    state = sp.symbols("x y", positive=True)
    tau = D_0 + COST[0] * state[0] + COST[1] * state[1]
    jumps = [([1, 0], sp.Float(COMING)), ([-1, 1], LEAVING[0] * state[0] / tau),
             ([0, -1], LEAVING[1] * state[1] / tau)]  # fmt: skip
    found = designs.refined(state, jumps, [1.0, 1.0])
    mean = found.point + found.correction
    assert mean == pytest.approx(exact_two_phases(), rel=1e-6)
    assert found.correction.sum() > 0.2 * found.point.sum()  # the fluid alone is far off
    # on the clock of batches the drift is linear, and time weights states by their batches
    batch = D_0 + COST @ found.point
    slope = np.array([[-LEAVING[0], 0.0], [LEAVING[0], -LEAVING[1]]])
    slope[0] += COMING * np.array(COST)
    first, second = LEAVING[0] * found.point[0], LEAVING[1] * found.point[1]
    noise = np.array([[COMING * batch + first, -first], [-first, first + second]])
    covariance = solve_continuous_lyapunov(slope, -noise)
    assert found.correction == pytest.approx(covariance @ COST / batch, rel=1e-9)


def exact_two_phases(most: int = 70) -> np.ndarray:
    """Return the means of both phases, from the chain with at most so many in each."""
    x, y = (each.ravel() for each in np.meshgrid(range(most), range(most), indexing="ij"))
    tau = D_0 + COST[0] * x + COST[1] * y
    rows, columns, rates = [], [], []
    for dx, dy, rate in (
        (1, 0, np.full(x.size, COMING)),
        (-1, 1, LEAVING[0] * x / tau),
        (0, -1, LEAVING[1] * y / tau),
    ):
        to = (x + dx, y + dy)
        inside = (rate > 0) & (to[0] < most) & (to[1] < most) & (to[0] >= 0) & (to[1] >= 0)
        here = np.flatnonzero(inside)
        there = (to[0] * most + to[1])[inside]
        rows += [there, here]
        columns += [here, here]
        rates += [rate[inside], -rate[inside]]
    entries = (np.concatenate(rates), (np.concatenate(rows), np.concatenate(columns)))
    generator = coo_array(entries, shape=(x.size, x.size)).tolil()
    generator[0] = 1.0  # in place of one balance: probabilities sum to one
    right = np.zeros(x.size)
    right[0] = 1.0
    law = spsolve(generator.tocsc(), right)
    return np.array([law @ x, law @ y])


@pytest.mark.parametrize(("servers", "load"), [(10, 0.7), (10, 0.95), (100, 0.98), (1000, 0.99)])
def test_many_servers_smoothed_and_as_a_diffusion(known, servers, load):
    exact, smoothed, boundary = known.many_servers(servers, load)
    assert exact == pytest.approx(erlang_c_mean(servers, load), rel=1e-6)
    assert boundary == pytest.approx(exact, rel=0.015)
    assert boundary > smoothed > servers * load  # the fluid's mean


@pytest.mark.parametrize(("servers", "load"), [(10, 0.7), (100, 0.98)])
def test_a_smoothed_law_balances_its_mean_and_its_variance(designs, servers, load):
    def service(number):
        return np.clip(number, 0.0, servers)

    coming = servers * load
    value, law = designs.smoothed(service, coming, 2 * coming, (coming, math.sqrt(coming)))
    falls = service(value)
    assert law @ falls == pytest.approx(coming, rel=1e-6)
    assert law @ ((value - law @ value) * falls) == pytest.approx(coming, rel=1e-5)


def erlang_c_mean(servers: int, load: float) -> float:
    """Return the mean in an M/M/n queue by Erlang's formula."""
    loss = 1.0
    for k in range(1, servers + 1):  # Erlang B by recursion
        loss = servers * load * loss / (k + servers * load * loss)
    waits = loss / (1 - load * (1 - loss))
    return servers * load + waits * load / (1 - load)


def lengths() -> RequestMix:
    rng = np.random.default_rng(7)
    prefill, decode = rng.integers(5, 90, 60), rng.integers(1, 40, 60)
    return RequestMix.from_lengths(prefill, decode, np.full(60, 1 / 60))


def test_the_interior_has_the_moments_of_the_equilibrium(designs):
    mix = lengths()
    law = BatchTimeLaw(d_0=1.0, d_decode=0.02, d_kv=2e-4)
    node = DecodeNode(M_total=10**9, B=None, batch_time=law)
    rate = 1.0
    found = designs.interior(mix, node, rate)
    line = law.tangent(0.0, 0.0)
    moments = fluid.moments(mix, line, rate, rate * found.tau)
    x, n = designs.TOKENS, designs.REQUESTS
    assert found.covariance[x, x] == pytest.approx(moments.var_batch_tokens, rel=1e-9)
    assert found.covariance[n, n] == pytest.approx(moments.var_running, rel=1e-9)
    assert found.covariance[n, x] == pytest.approx(moments.cov_running_tokens, rel=1e-9)
    assert found.var_time == pytest.approx(moments.var_batch_time, rel=1e-9)
    assert found.with_time[n] == pytest.approx(moments.cov_running_time.sum(), rel=1e-9)


def test_work_of_constant_batches_is_a_sum_of_independent_requests(designs):
    mix = lengths()
    node = DecodeNode(M_total=10**9, B=None, batch_time=BatchTimeLaw.per_token(1.0, 0.0))
    found = designs.interior(mix, node, 2.0)
    squares = 0.0
    for p, d, chance in zip(mix.prefill, mix.decode, mix.probability, strict=True):
        left = np.cumsum((p + 1.0 + np.arange(d))[::-1])
        squares += chance * float(left @ left)
    assert found.covariance[designs.WORK, designs.WORK] == pytest.approx(2.0 * squares, rel=1e-9)
    assert found.var_time == pytest.approx(0.0, abs=1e-9)


def test_batches_of_single_tokens_remember_one_batch_by_rho(designs):
    mix = RequestMix.from_lengths([20], [1])
    node = DecodeNode(M_total=10**9, B=None, batch_time=BatchTimeLaw.per_token(1.0, 0.01))
    rho = 0.6
    found = designs.interior(mix, node, rho / (0.01 * 21))
    assert found.lagged == pytest.approx(rho * found.var_time, rel=1e-9)
    assert found.memory == pytest.approx(-1 / math.log(rho), rel=1e-6)


def test_designs_agree_with_the_fluid_limit_of_a_large_node(designs):
    mix = lengths()
    node = DecodeNode(M_total=4_000_000, B=None, batch_time=BatchTimeLaw.per_token(1.0, 5e-7))
    rate = 0.5 * fluid.capacity(mix, node)
    limit = designs.fluid_limit(mix, node, rate)
    for design in designs.DESIGNS.values():
        means = design(mix, node, rate)
        assert means.ttft == pytest.approx(limit.ttft, rel=2e-3) or design is designs.present
        assert means.in_system == pytest.approx(limit.in_system, rel=2e-3)
