"""What answers say of their own error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ode
from fluid import capacity
from ode.error_model.basis import terms
from ode.error_model.model import (
    COVERS,
    FREEDOM,
    SIZE_CLASSES,
    Expected,
    basis_of,
    coefficients,
    expected,
)
from ode.error_model.report import DECIDING
from serving import BatchTimeLaw, DecodeNode, RateProfile, VllmV0
from workload import describe

MIX = describe("normal").mix
USUAL = {
    "fit": 100.0, "load": 0.7, "peak": 0.7, "dispersion": 1.0, "largest": 0.05, "cv_work": 1.0,
    "cv_decode": 1.0, "growth": 5.0, "own": 0.05, "sacrifice": 0.0, "age": 10.0, "arrivals": 1000.0,
    "prompt_steps": 0.0, "ttft_steps": 3.0, "tail": 2.0, "stay": 1.0,
}  # fmt: skip


def node_for(requests: float) -> DecodeNode:
    """Return a node that so many requests fill."""
    tokens = int(requests * MIX.work / MIX.mean_decode)
    return DecodeNode(M_total=tokens, B=None, batch_time=BatchTimeLaw.per_token(1.0, 5.0 / tokens))


def test_every_method_of_the_campaign_has_coefficients_that_may_only_widen() -> None:
    for methods in coefficients().values():
        for method, metrics in methods.items():
            growing = basis_of(method).growing
            for entry in metrics.values():
                assert len(entry["factor"]) == len(SIZE_CLASSES) + 1
                assert all(entry["log_size"].get(name, 0) >= 0 for name in growing)
    least = {"lagrangian", "stationary", "capacity", "queued"}
    assert least <= set(coefficients()["decode_node"])
    assert least <= set(coefficients()["vllm_v1"])


@given(st.floats(0.25, 1.0), st.floats(1.0, 4.0), st.floats(0.25, 1.0))
def test_more_scatter_never_narrows_an_interval(more: float, factor: float, less: float) -> None:
    """Both directions from Poisson arrivals: more bursty, more regular."""
    for engine, methods in coefficients().items():
        for method in methods:
            at = USUAL | {"dispersion": factor}
            here = expected(engine, method, "mean_e2el", at)
            beyond = expected(engine, method, "mean_e2el", at | {"dispersion": factor / more})
            regular = expected(engine, method, "mean_e2el", USUAL | {"dispersion": less * more})
            before = expected(engine, method, "mean_e2el", USUAL | {"dispersion": less})
            if None in (here, beyond, regular, before):
                continue
            assert beyond.half_width >= here.half_width * (1 - 1e-12)
            assert regular.half_width >= before.half_width * (1 - 1e-12)


def test_terms_are_finite_for_whatever_a_solver_knows() -> None:
    for name in USUAL:
        for value in (0.0, 1e-9, 1e9):
            found = terms(USUAL | {name: value})
            assert all(math.isfinite(each) for each in found.values()), name


def test_a_large_node_is_trusted_more_than_a_small_one() -> None:
    reports = []
    for requests in (10, 2000):
        node = node_for(requests)
        rate = 0.6 * capacity(MIX, node)
        steady = ode.stationary(MIX, node, rate)
        reports.append(steady.error)
    small, large = reports
    assert set(DECIDING) <= set(large.errors)
    assert large.bound < small.bound
    assert large.confidence in {"high", "fair"}
    assert small.confidence == "low"
    assert large.words.startswith(f"confidence {large.confidence}: of answers like this one 90 %")


def test_an_interval_is_about_the_bias_and_says_so_in_json() -> None:
    node = node_for(50)
    flow = ode.solve(RateProfile.constant(0.5 * capacity(MIX, node), 500.0), MIX, node)
    for name, row in flow.error.to_json()["metrics"].items():
        of = flow.error.errors[name]
        assert row["low"] < row["expected"] < row["high"]
        assert math.log1p(row["high"]) - math.log1p(row["low"]) == pytest.approx(
            2 * of.half_width, rel=1e-9
        )
        assert of.half_width <= math.log1p(of.bound) <= abs(of.bias) + of.half_width


@pytest.mark.parametrize("bias", [0.0, 0.01, -0.04, 0.1, -0.5])
def test_as_many_errors_are_within_the_bound_as_in_the_interval(bias: float) -> None:
    """Student's law about the bias, of which 90 % are within the half-width."""
    law = np.random.default_rng(2).standard_t(FREEDOM, 200_000)
    half = 0.05
    errors = bias + half * law / np.quantile(np.abs(law), COVERS)
    of = Expected(bias, half)
    within = np.mean(np.abs(errors) <= math.log1p(of.bound))
    assert within == pytest.approx(COVERS, abs=0.003)
    if bias == 0:
        assert math.log1p(of.bound) == pytest.approx(half)


def test_what_is_known_exactly_or_not_at_all_has_a_bound() -> None:
    assert Expected(0.0, 0.0).bound == 0
    assert Expected(-0.1, 0.0).bound == pytest.approx(math.expm1(0.1))
    assert Expected(0.1, math.inf).bound > 1e20


def solved(**changed: object) -> str | None:
    """Return why the error of a solution is unknown."""
    node = changed.pop("node", node_for(50))
    profile = changed.pop("profile", RateProfile.constant(0.5 * capacity(MIX, node), 500.0))
    flow = ode.solve(profile, MIX, node, **changed)  # type: ignore[arg-type]
    assert (flow.error.confidence == "unknown") == (flow.error.reason is not None)
    return flow.error.reason


def test_answers_unlike_those_that_were_measured_say_so() -> None:
    assert solved() is None
    assert "eulerian_jax" in str(solved(method="eulerian_jax"))
    assert "empty start" in str(solved(initial=ode.InitialState(waiting=5.0)))
    assert "until the last" in str(solved(drain=False))
    shortest = DecodeNode(M_total=4000, B=None, queue_policy="SJF")
    assert "policies" in str(solved(node=shortest, approximate=True))
    assert "arrivals on" in str(solved(profile=RateProfile.constant(0.01, 10.0)))
    burst = RateProfile.constant(0.5 * capacity(MIX, node_for(50)), 500.0)
    burst = RateProfile(burst.time, burst.cumulative, dispersion=9.0)
    assert "dispersion" in str(solved(profile=burst))
    assert "requests that fit" in str(solved(node=node_for(9000)))
    table = BatchTimeLaw(d_0=1.0, d_decode_table=((1, 0.1), (10, 0.5), (100, 8.0)))
    assert "table" in str(solved(node=DecodeNode(M_total=4000, B=None, batch_time=table)))
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_prefill=1e-5, d_kv=1e-7)
    server = VllmV0(batch_time=law, num_gpu_blocks=2000)
    assert "vllm_v0" in str(solved(node=server))
