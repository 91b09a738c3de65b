"""Every solution carries the certificate of its node, and warns of it only where memory fills."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from discrete import simulate
from fluid import capacity, certificate
from ode import InitialState, solve
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix, RequestTable

MIX = RequestMix.from_lengths([20], [20])
NODE = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10000, B=10000, mode="sacrifice")


@pytest.mark.parametrize("method", ["lagrangian", "eulerian_jax"])
def test_certificate_of_a_light_solve_is_there_and_silent(method):
    solution = solve(RateProfile.constant(2.0, 50.0), MIX, NODE, method=method)
    assert solution.certificate == certificate(MIX, NODE)
    assert not solution.certificate.stable
    assert solution.certificate.ode_blind
    assert solution.warnings == solution.labels == ()


def test_a_full_node_warns_and_loses_what_the_certificate_says():
    start = InitialState(waiting=3000.0)
    profile = RateProfile.constant(5.1, 400.0)
    solution = solve(profile, MIX, NODE, initial=start, drain=False)
    assert solution.warnings == (solution.certificate.message,)
    assert "limit cycle: expect up to 23.8 % loss" in solution.warnings[0]
    # the Lagrangian engine shows the collapse itself: whole periods of 20 batches of 3.2 time units
    done = np.diff(solution("completed", [100.0, 100.0 + 4 * 20 * 3.203]))[0]
    rate = done / (4 * 20 * 3.203)
    assert rate == pytest.approx(solution.certificate.theta_sac, rel=0.02)


def test_a_full_node_with_stable_lengths_has_nothing_to_warn_of():
    d = np.arange(1, 400)
    mix = RequestMix.from_lengths(np.full(d.size, 20), d, 0.95**d)
    solution = solve(
        RateProfile.constant(5.0, 400.0),
        mix,
        NODE,
        initial=InitialState(waiting=3000.0),
        drain=False,
    )
    assert solution.certificate.stable
    assert solution.certificate.message == "stable"
    assert solution.warnings == solution.labels


def test_where_the_batch_budget_fills_first():
    """The batches of a queue cycle as a full memory does: the same polynomial, the same label."""
    node = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10000, B=2000)
    solution = solve(RateProfile.constant(6.0, 300.0), MIX, node, drain=False)
    assert not solution.certificate.memory_binds
    assert "the batch budget fills first" in solution.certificate.message
    assert "a mean of runs is no path of one run" in solution.certificate.message
    assert solution.warnings == (solution.certificate.message,)
    light = solve(RateProfile.constant(2.0, 300.0), MIX, node, drain=False)
    assert light.warnings == light.labels == ()


def test_a_threshold_below_the_budget_is_what_binds():
    law = BatchTimeLaw.per_token(0.003, 0.00032)
    node = DecodeNode(law, M_total=10000, B=6000, admission_threshold=0.5)
    assert certificate(MIX, node).memory_binds
    assert not certificate(MIX, replace(node, admission_threshold=0.7)).memory_binds


@pytest.mark.parametrize(
    ("prefill", "decode", "grows"),
    [((40, 170), (30, 90), True), (np.arange(30, 170), np.arange(10, 150), False)],
)
def test_full_batches_cycle_where_the_certificate_says_so(prefill, decode, grows):
    """The engine under a budget at load 1.3: sizes of successive batches differ more and more."""
    mix = RequestMix.from_lengths(prefill, decode, np.linspace(4, 1, len(decode)))
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-5), M_total=10**6, B=10**5)
    rng, count = np.random.default_rng(0), 20_000
    at = rng.choice(len(mix), size=count, p=mix.probability)
    arrival = np.cumsum(rng.exponential(1 / (1.3 * capacity(mix, node)), count))
    table = RequestTable.validated(arrival, mix.prefill[at].astype(int), mix.decode[at])
    batches = simulate(table, node, until=arrival[-1]).batches
    size = batches["batch_size"][batches["batch_tokens"] > 0.98 * node.token_budget].astype(float)
    assert size.size > 500
    early, late = (abs(np.diff(part)).mean() for part in (size[:100], size[-100:]))
    assert certificate(mix, node).stable == (not grows)
    assert late > 2 * early if grows else late == pytest.approx(early, rel=0.25)
