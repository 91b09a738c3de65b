"""Every solution carries the certificate of its node, and warns of it only where memory fills."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import certificate
from ode import InitialState, solve
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix

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
    node = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10000, B=2000)
    solution = solve(RateProfile.constant(6.0, 300.0), MIX, node, drain=False)
    assert not solution.certificate.memory_binds
    assert "the batch budget fills first" in solution.certificate.message
    assert solution.warnings == solution.labels
