"""How the prompt tokens of a step scatter: against a plain sum, and against the engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import discrete
import fluid
import ode
from fluid.prompt_server.lumps import NODES, relative_tokens, scatter_of, within
from serving import BatchTimeLaw, RateProfile, VllmV1
from workload import describe

BENT = BatchTimeLaw(
    d_0=0.017, d_decode=4e-5, d_kv=1.4e-7, d_mixed_decode=4e-5,
    d_prefill_table=((16.0, 0.018), (256.0, 0.026), (272.0, 0.035), (512.0, 0.048), (2048.0, 0.2)),
)  # fmt: skip
NORMAL = describe("normal")
SERVER = VllmV1(batch_time=BENT, num_gpu_blocks=2544, max_num_batched_tokens=2048)


def tokens_of_a_step(own, share, entering):
    """Return the law of the prompt tokens of a step that anybody starts in, by plain sums."""
    single = np.bincount(own, share)
    total, power, chance = np.zeros(1), np.ones(1), math.exp(-entering)
    for number in range(1, int(entering + 9 * math.sqrt(entering) + 12)):
        power = np.convolve(power, single)
        chance *= entering / number
        total = np.pad(total, (0, power.size - total.size)) + chance * power
    return total / total.sum()


@given(
    own=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
    entering=st.floats(0.02, 40.0),
    corner=st.floats(0.3, 2.0),
)
@settings(max_examples=40, deadline=None)
def test_the_mean_of_a_bent_time_is_that_of_a_plain_sum(own, entering, corner):
    share = np.arange(1.0, len(own) + 1)
    share /= share.sum()
    own = np.sort(own)
    law = tokens_of_a_step(own, share, entering)
    tokens = np.arange(law.size)
    mean = law @ tokens
    parts = mean * relative_tokens(scatter_of(own.astype(float), share), np.array(entering))
    assert parts.size == NODES and parts.mean() == pytest.approx(mean, rel=1e-9)
    exact = law @ np.maximum(tokens - corner * mean, 0.0)
    found = np.maximum(parts - corner * mean, 0.0).mean()
    spread = math.sqrt(law @ (tokens - mean) ** 2)
    assert found == pytest.approx(exact, abs=0.03 * mean + 0.05 * spread)


def test_no_step_computes_more_than_it_holds_and_nothing_is_lost():
    parts = np.linspace(0.2, 1.8, NODES)
    held = within(parts, np.array([1.2]))
    assert held.max() == pytest.approx(1.2) and held.mean() == pytest.approx(1.0, rel=1e-3)
    assert within(parts, np.array([2.0])) is parts
    np.testing.assert_allclose(within(parts, np.array([1.0])), 1.0, rtol=0.02)


@pytest.mark.parametrize(("scale", "rate", "tpot", "ttft"), [(1, 30.0, 0.01, 0.01),
                                                             (20, 50.0, 0.005, 0.005)])  # fmt: skip
def test_a_law_that_jumps_is_met_on_average(scale, rate, tpot, ttft):
    """The time at the mean of the prompt tokens made TPOT 3 % too short, and 37 % at load .9."""
    source, node = NORMAL.at_rate(rate * scale), SERVER.scaled(scale)
    requests = source.sample(seed=2, num_requests=20_000 if scale == 1 else 150_000)
    seen = discrete.simulate(requests, node, record_batches=False).metrics().latencies
    found = fluid.equilibrium(source.mix, node, rate * scale)
    assert found.tpot == pytest.approx(seen["tpot"].mean, rel=tpot)
    assert found.ttft == pytest.approx(seen["ttft"].mean, rel=ttft)
    one = ode.stationary(source.mix, node, rate * scale).latencies
    assert one["tpot"].mean == pytest.approx(seen["tpot"].mean, rel=tpot)
    assert one["ttft"].mean == pytest.approx(seen["ttft"].mean, rel=ttft)


def test_the_march_comes_to_the_equilibrium_of_a_law_that_jumps():
    node, rate = SERVER.scaled(50), 50.0 * 50
    found = ode.solve(RateProfile.constant(rate, 12.0), NORMAL.mix, node)
    point = fluid.equilibrium(NORMAL.mix, node, rate)
    assert float(found("running", [10.0])[0]) == pytest.approx(point.running, rel=2e-3)


def test_the_capacity_of_a_law_that_jumps_is_that_of_the_engine():
    node = replace(SERVER, max_num_seqs=128)
    requests = NORMAL.at_rate(1e4).sample(seed=2, num_requests=12_000)
    done = np.sort(discrete.simulate(requests, node).requests["completion_time"])
    seen = 8000 / (done[10_000] - done[2000])
    assert fluid.capacity(NORMAL.mix, node) == pytest.approx(seen, rel=0.015)
