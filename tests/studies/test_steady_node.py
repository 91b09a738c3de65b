"""Percentiles of the end-to-end latency of long-tailed lengths, against the engine."""

from __future__ import annotations

import numpy as np
import pytest

from serving import RequestMix
from studies import Question
from studies.one_node import node_sized_for
from studies.steady_node import even_classes, predicted_by, steady_cells
from workload import LengthDistribution, RequestClass, Workload, mix_of

CLOSE = 0.03
"""What is asked of the percentiles; two standard errors of the engine come on top."""


def with_lengths(decode: LengthDistribution) -> RequestMix:
    return mix_of([RequestClass("all", 1.0, LengthDistribution.deterministic(100), decode)])


MIXES = {
    "lognormal, CV 1": with_lengths(LengthDistribution.lognormal(100.0, 1.0, tail=1e-6)),
    "lognormal, CV 3": with_lengths(LengthDistribution.lognormal(100.0, 3.0, tail=1e-6)),
    "geometric": with_lengths(LengthDistribution.geometric(100.0)),
    "rare": RequestMix.from_lengths([100, 100], [10, 3000], [0.998, 0.002]),
}


def asked(mix: RequestMix, requests: float = 2000.0) -> Question:
    return Question(Workload(mix, 1.0), node_sized_for(mix, requests), seed=1)


@pytest.mark.parametrize("name", MIXES)
def test_end_to_end_percentiles_at_light_load_are_those_of_the_engine(name):
    """Sixteen groups of like length had a p99 of 1,245 for 834, and missed the rare class."""
    methods = {each: predicted_by(each) for each in ("stationary", "node_work")}
    cells = steady_cells(name, asked(MIXES[name]), 0.2, methods, number=40_000)
    for cell in cells:
        assert abs(cell.deviation) < CLOSE + 2 * cell.standard_error, cell


def test_even_classes_are_the_mix():
    mix = MIXES["geometric"]
    lengths = mix.decode[even_classes(mix, 10_000)]
    assert lengths.mean() == pytest.approx(mix.mean_decode, rel=1e-3)
    order = np.argsort(mix.decode)
    at = np.searchsorted(np.cumsum(mix.probability[order]), [0.5, 0.99])
    assert np.quantile(lengths, [0.5, 0.99]) == pytest.approx(mix.decode[order][at], rel=0.01)
