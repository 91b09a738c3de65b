"""The regime by the engine: nodes whose regime is known by hand, and counts that scatter less."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import capacity
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable
from studies.campaign.truth import best_rate, rates_of
from studies.engine_regime import healthy_throughput, regime_by_engine

ONE = RequestMix.from_lengths([9], [10])
SINGLE = DecodeNode(M_total=19, B=None, batch_time=BatchTimeLaw.per_token(1.0, 0.0))
"""One request fits, and takes ten batches of one time unit."""

KNOWN = DecodeNode(BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=None, mode="sacrifice")
ALIKE = RequestMix.from_lengths([20], [20])


@pytest.mark.parametrize(("rate", "name"), [(0.06, "healthy"), (0.2, "behind")])
def test_a_single_server_keeps_up_with_one_over_its_service(rate, name):
    found = regime_by_engine(ONE, SINGLE, rate, seed=3)
    assert found.name == name and found.throughput == pytest.approx(0.1, rel=1e-3)


def test_the_known_experiment_is_bistable():
    found = regime_by_engine(ALIKE, KNOWN, 4.8, runs=2, seed=1)
    assert found.name == "bistable" and found.throughput == pytest.approx(3.9, rel=0.01)
    healthy, error = healthy_throughput(ALIKE, KNOWN, runs=2)
    assert healthy == pytest.approx(capacity(ALIKE, KNOWN), rel=0.01 + 2 * error)


def test_completions_counted_by_work_are_those_of_the_mean_request():
    """Ten long and ten short ones where half are long: twenty, however they are counted."""
    mix = RequestMix.from_lengths([10, 10], [5, 50])
    p, d = np.full(20, 10), np.repeat([5, 50], 10)
    table = RequestTable.validated(np.zeros(20), p, d)
    ended = np.linspace(1.0, 2.0, 20)
    assert rates_of(table, ended, mix, (0.0, 2.0)) == pytest.approx(np.full(5, 10.0))
    longer = rates_of(table, ended, mix, (1.5, 2.0))
    assert longer[0] == pytest.approx(20.0) and longer[1] > 30  # ten long ones
    rate, error = best_rate([np.array([9.0, 10.0]), np.array([11.0, 10.2])])
    assert rate == pytest.approx(10.1) and error == pytest.approx(0.1 / 10.1, rel=0.01)
