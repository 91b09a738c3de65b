"""Statistics of samples and gauges against NumPy on the samples that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Trajectory
from serving.sample_statistics import gauge_statistics, sample_statistics


def test_percentiles_are_called_by_what_they_are():
    found = sample_statistics(np.arange(1001.0))
    assert found["p0p1"] == pytest.approx(1) and found["p99p9"] == pytest.approx(999)
    assert (found["p25"], found["p50"], found["p95"]) == (250, 500, 950)
    assert (found["min"], found["max"], found["mean"]) == (0, 1000, 500)
    assert found["stddev"] == pytest.approx(np.sqrt((1001**2 - 1) / 12))
    assert sample_statistics(np.empty(0)) == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=20))
def test_a_gauge_is_read_once_per_unit_of_time(steps):
    """Steps of whole lengths, of which some take no time, are a list of readings."""
    lengths, values = (np.array(each) for each in zip(*steps, strict=True))
    time = np.cumsum(lengths) - lengths
    trajectory = Trajectory(
        time.astype(float), {"running": values.astype(float)}, frozenset({"running"})
    )
    found = gauge_statistics(trajectory, "running", float(lengths.sum()))
    readings = np.repeat(values, lengths)
    if not readings.size:
        assert found == {}
    else:
        assert found["mean"] == pytest.approx(readings.mean())
        assert (found["min"], found["max"]) == (readings.min(), readings.max())
