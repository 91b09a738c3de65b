"""Latency samples recorded while cruising against those of the general kernel."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import capacity
from ode import InitialState
from ode.lagrangian.layout import S_WEIGHT, Answer
from ode.lagrangian.outputs import March, latencies_of
from ode.lagrangian.workspace import Workspace
from serving import LATENCIES, DecodeNode, Distribution, RateProfile, RequestMix

MIX = RequestMix.from_lengths(np.full(400, 60), np.arange(1, 401))
NODE = DecodeNode(M_total=60_000, B=None)
SMALLEST = 1e-12
STATES = {
    "empty": InitialState(),
    "busy": InitialState(
        waiting=40.0,
        running=np.array([[30.0, 80.0, 80.0], [25.0, 45.0, 45.0], [20.0, 12.0, 12.0]]),
    ),
}


def recorded(batches: int, unit: float, initial: InitialState, load: float = 0.7) -> March:
    """March to time 900 with samples of at least ``unit``; with a unit it may cruise."""
    rate = load * capacity(MIX, NODE)
    profile = RateProfile.steps([0.0, 400.0], [rate, 0.4 * rate], 900.0)
    workspace = Workspace(
        MIX, NODE, profile, horizon=900.0, batches_per_step=batches, rows=64, samples=64
    )
    workspace.seed(initial)
    workspace.record["sample_unit"] = workspace.record["gap_unit"] = unit
    assert workspace.advance() == Answer.DONE
    state = workspace.record[0]
    return March(workspace.rows[: state["steps"]], workspace.samples[: state["samples"]], state)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_cruising_records_what_the_general_kernel_records(batches, state):
    """With a unit below every weight nothing is left out, and every sample can be compared."""
    general = recorded(batches, 0.0, STATES[state])
    cruising = recorded(batches, SMALLEST, STATES[state])
    assert np.allclose(general.rows, cruising.rows, rtol=1e-9, atol=1e-7)
    one, other = (each.samples[each.samples[:, S_WEIGHT] > 1e-9] for each in (general, cruising))
    assert len(one) == len(other) > 1_000
    assert np.allclose(one, other, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("batches", [1, 5])
def test_cruising_gathers_small_samples(batches):
    every = recorded(batches, 0.0, InitialState())
    unit = every.samples[:, S_WEIGHT].sum() / 4096
    gathered = recorded(batches, unit, InitialState())
    assert len(gathered.samples) < min(len(every.samples) / 2, 4200)
    one, other = (latencies_of(each, batches) for each in (every, gathered))
    assert other.weight.sum() == pytest.approx(one.weight.sum(), abs=2 * unit)
    assert other.itl_weight.sum() == pytest.approx(one.itl_weight.sum())
    for name in LATENCIES:
        (values, weight), found = one.of(name), Distribution.of(*other.of(name))
        expected = Distribution.of(values, weight)
        # four standard errors of as many random draws
        error = 4 * expected.std / np.sqrt(len(other.weight))
        assert found.mean == pytest.approx(expected.mean, abs=error + 1e-9), name
        for q in (50, 95):
            near = 4 * np.sqrt(q * (100 - q) / len(other.weight))
            low, high = np.percentile(_drawn(values, weight), [q - near, min(q + near, 100.0)])
            slack = 2e-3 * np.ptp(values)
            assert low - slack <= found.percentiles[q] <= high + slack, (name, q)


def _drawn(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return values of equal weight that stand for the weighted ones."""
    below = np.cumsum(weight[order := np.argsort(values)])
    even = (np.arange(100_000) + 0.5) / 100_000 * below[-1]
    return values[order][np.minimum(np.searchsorted(below, even), values.size - 1)]
