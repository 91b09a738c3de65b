"""Rates of 0, and laws by which nothing takes time: right, or refused in one line, everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

import discrete
import fluid
import ode
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RateProfile, RequestMix
from studies import Question, Replications, analyze, answer, compare
from studies.tuning import GoodputSettings, SearchSettings, most_goodput, tune
from workload import describe

MIXES = {
    "mixed": RequestMix.from_lengths([20, 100], [20, 40]),
    "one token": RequestMix.from_lengths([20], [1]),
    "few": RequestMix.from_lengths([3000], [200]),
}
LAWS = {
    "nothing": BatchTimeLaw(d_0=0.0, d_decode=0.0, d_kv=0.0),
    "table of nothing": BatchTimeLaw.tabulated([(1, 0.0), (10, 0.0)], 0.0, d_0=0.0),
    "no d_0": BatchTimeLaw(d_0=0.0, d_decode=1e-3, d_kv=1e-3),
    "d_0 alone": BatchTimeLaw(d_0=1.0, d_decode=0.0, d_kv=0.0),
    "usual": BatchTimeLaw(),
}
SHORT = SearchSettings(least_requests=500, most_requests=1000, tolerance=0.3)
TINY = GoodputSettings(steps=2, confirmed=1, replications=2, requests=300)


def asked(mix, node, rate, **length) -> Question:
    return Question(describe(lengths=mix, arrival_rate=rate), node, **length)


def solved(method):
    def of(mix, node, rate):
        flow = ode.solve(
            RateProfile.constant(rate, 5.0), mix, node, method=method, **OPTIONS[method]
        )
        return flow.metrics()

    return of


OPTIONS = {"lagrangian": {}, "node_work": {}, "eulerian_scipy": {"drain": False}}


OF_NODE = {
    name: (lambda f: lambda m, n, r: f(m, n))(getattr(room, name))
    for room, names in (
        (fluid, ("capacity", "saturation", "fastest_batch", "certificate", "whole_requests",
                 "threshold_without_eviction", "worst_cycle")),
        (ode, ("collapsed_throughput",)),
    )
    for name in names
}  # fmt: skip
OF_RATE = {
    name: getattr(room, name)
    for room, names in (
        (fluid, ("equilibrium", "equilibrium_gradients", "mean_time_to_full",
                 "healthy_batch_time", "saturation_sensitivity", "work_closure")),
        (ode, ("stationary", "regime", "choose_threshold")),
    )
    for name in names
}  # fmt: skip
SOLVES = {f"solve {name}": solved(name) for name in ("lagrangian", "node_work", "eulerian_scipy")}
DOORS = OF_NODE | OF_RATE | SOLVES

STUDIES = {
    "analyze": lambda m, n, r: analyze(asked(m, n, r), method="model"),
    "analyze over time": lambda m, n, r: analyze(
        asked(m, n, r, horizon=20.0), over_time=True, method="model"
    ),
    "answer": lambda m, n, r: answer(asked(m, n, r, horizon=20.0), within=1.0, budget=0.5),
    "compare": lambda m, n, r: compare(
        asked(m, n, r, horizon=30.0), ("lagrangian", "node_work"), Replications(2, workers=1)
    ),
    "tune max-rate": lambda m, n, r: tune("max-rate", asked(m, n, r), settings=SHORT),
    "tune B": lambda m, n, r: tune("B", asked(m, n, r), settings=SHORT),
    "most goodput": lambda m, n, r: most_goodput(
        ["max-rate", "B"], asked(m, n, r), {"ttft": 5.0}, settings=TINY
    ),
    "at_rate": lambda m, n, r: asked(m, n, 1.0).at_rate(r),
    "at_load": lambda m, n, r: asked(m, n, 1.0).at_load(r),
}


def right_or_refused(call) -> bool:
    """Return whether there was an answer; anything but a refusal in one line fails the test."""
    try:
        call()
    except FluidServeError as refused:
        assert "\n" not in str(refused) and str(refused)
        return False
    return True


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("door", DOORS)
def test_models_answer_or_refuse(door, law):
    """Warnings of NumPy are errors in these tests: no NaN passes for an answer."""
    for mix in MIXES.values():
        for mode in ("swapping", "sacrifice"):
            for rate in (0.0, 0.02):
                node = DecodeNode(LAWS[law], mode=mode)
                answered = right_or_refused(lambda: DOORS[door](mix, node, rate))  # noqa: B023
                if law == "usual" and rate > 0 and mix is MIXES["mixed"]:
                    assert answered or door == "worst_cycle"


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("study", STUDIES)
def test_studies_answer_or_refuse(study, law):
    for rate in (0.0, 0.02):
        right_or_refused(
            lambda: STUDIES[study](MIXES["mixed"], DecodeNode(LAWS[law]), rate)  # noqa: B023
        )


def test_what_takes_no_time_has_no_largest_rate():
    node = DecodeNode(LAWS["nothing"])
    assert fluid.capacity(MIXES["mixed"], node) == math.inf
    assert fluid.mean_time_to_full(MIXES["mixed"], node, 1.0) == math.inf
    with pytest.raises(FluidServeError, match="no rate is too large; give d_0 > 0"):
        tune("max-rate", asked(MIXES["mixed"], node, 1.0), settings=SHORT)
    run = discrete.simulate(asked(MIXES["mixed"], node, 1.0, num_requests=20).requests, node)
    assert run.metrics().completed == 20 and run.samples().e2el.max() == 0.0


def test_nobody_arrives():
    """A solution of no arrivals has no latency, and completes nobody."""
    for method in ("lagrangian", "node_work"):
        found = ode.solve(RateProfile.constant(0.0, 20.0), MIXES["mixed"], DecodeNode(),
                          method=method)  # fmt: skip
        assert found.samples().weight.sum() == 0.0
        assert np.isnan(found.metrics().latencies["ttft"].mean)
        assert found.metrics().completed == pytest.approx(0.0, abs=1e-12)
