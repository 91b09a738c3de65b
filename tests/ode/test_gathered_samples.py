"""Latency samples of a long march on the iteration clock: one stands for several."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import capacity
from ode import solve
from ode.lagrangian.layout import S_LENGTH, S_WEIGHT, SAMPLE_SIZE
from ode.lagrangian.workspace import Workspace, thinned
from serving import DecodeNode, Distribution, RateProfile, RequestMix
from serving.metrics import weighted_percentile


def test_gathered_samples_weigh_what_single_ones_do_and_follow_them():
    rng = np.random.default_rng(2)
    samples = np.zeros((20_000, SAMPLE_SIZE))
    samples[:, S_WEIGHT] = rng.gamma(0.3, size=len(samples)) ** 2
    samples[:, S_LENGTH] = np.sort(rng.lognormal(3.0, 1.0, size=len(samples)))
    total = samples[:, S_WEIGHT].sum()
    unit = total / 500
    thin, debt = thinned(samples, unit, 0.25 * unit)
    assert len(thin) < 800 and 0 <= debt < unit
    assert thin[:, S_WEIGHT].sum() + debt == pytest.approx(total + 0.25 * unit)
    for q in (5, 50, 95):
        exact, found = (
            weighted_percentile(part[:, S_LENGTH], part[:, S_WEIGHT], q) for part in (samples, thin)
        )
        assert found == pytest.approx(exact, rel=0.02)
    again, left = thinned(thin, 4 * unit, debt)
    assert again[:, S_WEIGHT].sum() + left == pytest.approx(total + 0.25 * unit)
    assert len(again) < len(thin)
    nothing, kept = thinned(samples[:0], unit, debt)
    assert len(nothing) == 0 and kept == debt


@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_few_samples_have_the_latencies_of_many(monkeypatch, mode):
    """The memory of a march does not grow with its length: 8 million samples took 2 GB."""
    lengths = np.arange(1, 400)
    mix = RequestMix.from_lengths(np.full(399, 50), lengths, 0.98**lengths)
    node = DecodeNode(mode=mode, M_total=4000, B=None)
    profile = RateProfile.constant(1.1 * capacity(mix, node), 3000.0)
    many = solve(profile, mix, node, method="lagrangian").samples()
    monkeypatch.setattr("ode.lagrangian.workspace.MOST_SAMPLES", 1 << 14)
    few = solve(profile, mix, node, method="lagrangian").samples()
    assert few.weight.size < many.weight.size / 5
    assert few.weight.sum() == pytest.approx(many.weight.sum(), rel=1e-3)
    for name in ("ttft", "e2el", "tpot", "itl"):
        one, other = (Distribution.of(*part.of(name)) for part in (few, many))
        assert one.mean == pytest.approx(other.mean, rel=0.01)
        for q in (50, 95, 99):
            assert one.percentiles[q] == pytest.approx(other.percentiles[q], rel=0.02)


def test_a_queue_of_more_parcels_than_samples_does_not_stop_a_march(monkeypatch):
    """A step asks for room for two samples of each parcel, however few samples are kept."""
    mix = RequestMix.from_lengths(np.full(40, 50), np.arange(1, 41))
    node = DecodeNode(M_total=4000, B=None)
    rate = 2 * capacity(mix, node)
    profile = RateProfile.constant(rate, 4000.0)
    enlarged, grow = [], Workspace.grow

    def counted(workspace, answer):
        enlarged.append(answer)
        assert len(enlarged) < 500, "the march asks for room again and again"
        grow(workspace, answer)

    monkeypatch.setattr("ode.lagrangian.workspace.MOST_SAMPLES", 1 << 10)
    monkeypatch.setattr(Workspace, "grow", counted)
    found = solve(profile, mix, node).samples()
    assert found.weight.sum() == pytest.approx(rate * 4000.0, rel=2e-3)
    # the last half of the work is done after the arrivals have ended
    assert Distribution.of(*found.of("ttft")).mean == pytest.approx(2000.0, rel=0.05)
