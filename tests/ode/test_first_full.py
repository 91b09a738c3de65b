"""The mean time to a full memory, and its interval."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import ode
from fluid import mean_time_to_full
from ode.full_memory.first_full import HALF_WIDTH
from serving import BatchTimeLaw, DecodeNode, RequestMix, UnsupportedError, VllmV1

KNOWN = DecodeNode(
    BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
)
ALIKE = RequestMix.from_lengths([20], [20])


def test_the_interval_of_the_known_experiment_holds_the_engine():
    """8.70e3 +- .71e3 by 100 runs of the engine at 5.10, 1,336 +- 91 with a memory of 3,000."""
    small = replace(KNOWN, M_total=3000, B=None)
    for node, rate, engine in ((KNOWN, 5.1, 8.7e3), (small, 5.0, 1336.0), (small, 5.3, 225.0)):
        found = ode.time_to_full(ALIKE, node, rate)
        low, high = found.interval
        assert found.mean == mean_time_to_full(ALIKE, node, rate)
        assert low < engine < high
        assert f"{low:.2g}" in found.words and f"{high:.2g}" in found.words
        assert json.loads(json.dumps(found.to_json()))["mean"] == found.mean


def test_an_interval_widens_beyond_the_times_that_were_measured():
    short, longer, longest = (ode.time_to_full(ALIKE, KNOWN, rate) for rate in (5.2, 5.05, 4.5))
    assert short.error.half_width == HALF_WIDTH
    assert HALF_WIDTH < longer.error.half_width < longest.error.half_width


def test_a_memory_that_never_fills_has_no_interval():
    never = ode.time_to_full(ALIKE, KNOWN.scaled(100), 300.0)
    assert never.mean == math.inf and never.words == "memory never fills by chance"
    assert never.to_json()["mean"] is None
    with pytest.raises(UnsupportedError):
        ode.time_to_full(ALIKE, VllmV1(batch_time=BatchTimeLaw(d_0=0.01)), 1.0)
