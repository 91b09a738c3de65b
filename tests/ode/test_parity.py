"""Every metric of the discrete runs, the iteration clock and the Eulerian equations, side by side.

The discrete ensemble is stratified (one arrival in each equal share of the flow, lengths at equal
shares of their distribution), so that few runs pin the mean down. Tolerances are relative to the
discrete mean, tight where the fluid method is exact up to the size of the system; what is absent
from a table is not claimed: the method labels it or leaves it empty.
"""

from __future__ import annotations

import numpy as np
import pytest

from discrete import simulate
from ode import Solution, solve
from serving import DecodeNode, RateProfile, RequestMix, RequestTable, ServingMetrics

LENGTHS = np.arange(50, 151)
MIX = RequestMix.from_lengths(np.full(LENGTHS.size, 20), LENGTHS)
RUNS = 40
BURST = (RateProfile.constant(30.0, 10.0), 1200.0)
CALM = (RateProfile.constant(0.3, 400.0), 700.0)

EXACT = {
    "duration": 0.015, "completed": 0.001, "output_tokens": 0.001, "memory_utilization": 0.02,
    "gpu_utilization": 0.005, "processing_efficiency": 0.05, "evictions": 0.0,
    "recompute_waste": 0.0, "ttft": 0.015, "tpot": 0.015, "itl": 0.01, "e2el": 0.01,
    "queue_delay": 0.03,
}  # fmt: skip
"""Nobody is evicted. Flow runs batches for fractions of the first and of the last request, which
single requests do not: hence the efficiency."""

CUT_SHORT = EXACT | {
    "completed": 0.04, "output_tokens": 0.015, "ttft": 0.03, "tpot": 0.03, "e2el": 0.03,
    "queue_delay": 0.05,
}  # fmt: skip
"""Nobody is evicted; runs end with the batch under way, the Eulerian integration in its midst."""

ORDERED = EXACT | {
    "duration": 0.02, "evictions": 0.6, "recompute_waste": 0.2, "ttft": 0.02, "tpot": 0.02,
    "itl": 0.02, "e2el": 0.02, "queue_delay": 0.07,
}  # fmt: skip
"""Evictions, who comes first kept. Flow is in balance where single requests come and go, so that
they are evicted up to twice as often."""

MEAN_PROGRESS = ORDERED | {
    "processing_efficiency": 0.09, "recompute_waste": 0.3, "ttft": 0.04, "tpot": 0.06,
    "e2el": 0.08, "queue_delay": 0.08,
}  # fmt: skip
del MEAN_PROGRESS["itl"]
"""Evictions, labelled: latencies by the mean progress, no inter-token latencies. The stages of the
last requests empty slowly: hence the efficiency."""


def runs(node: DecodeNode, profile: RateProfile, until: float | None = None):
    """Return runs of stratified requests."""
    rng = np.random.default_rng(7)
    number = round(profile.total)
    out = []
    for _ in range(RUNS):
        count = np.arange(number) + rng.uniform(size=number)
        arrival = np.interp(count, profile.cumulative, profile.time)
        place = (rng.permutation(number) + rng.uniform(size=number)) / number
        decode = LENGTHS[(place * LENGTHS.size).astype(int)]
        table = RequestTable.validated(arrival, np.full(number, 20), decode)
        out.append(simulate(table, node, until=until))
    return out


def values(metrics: ServingMetrics) -> dict[str, float]:
    """Return every metric; of a latency its mean."""
    means = {name: each.mean for name, each in metrics.latencies.items()}
    return {name: getattr(metrics, name) for name in EXACT if name not in means} | means


def check(solution: Solution, ensemble, bounds: dict[str, float]) -> None:
    every = [values(run.metrics()) for run in ensemble]
    mine = values(solution.metrics())
    assert mine.keys() == every[0].keys() == EXACT.keys()
    for name, bound in bounds.items():
        reference = np.mean([each[name] for each in every])
        assert mine[name] == pytest.approx(reference, rel=bound, abs=1e-9), name
    for name in EXACT.keys() - bounds.keys():
        assert np.isnan(mine[name]), name


def horizon_at(profile: RateProfile, end: float) -> RateProfile:
    return RateProfile(np.append(profile.time, end), np.append(profile.cumulative, profile.total))


def weight(run_or_solution) -> float:
    return float(run_or_solution.samples().weight.sum())


def test_every_metric_without_evictions():
    node, (profile, _) = DecodeNode(B=None), CALM
    ensemble = runs(node, profile)
    metrics = [run.metrics() for run in ensemble]
    assert not any(run.evictions for run in metrics)
    for method in ("lagrangian", "eulerian_jax"):
        solution = solve(profile, MIX, node, method=method)
        assert solution.labels == ()
        check(solution, ensemble, EXACT)
        for name, of in solution.metrics().latencies.items():
            for q in (50, 90, 99):
                reference = np.mean([run.latencies[name].percentiles[q] for run in metrics])
                assert of.percentiles[q] == pytest.approx(reference, rel=0.06), (name, q)
        assert weight(solution) == pytest.approx(profile.total)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_every_metric_of_a_burst_that_evicts(mode):
    node, (profile, _) = DecodeNode(mode=mode, B=None), BURST
    ensemble = runs(node, profile)
    assert all(run.metrics().evictions > 50 for run in ensemble)
    check(solve(profile, MIX, node, method="lagrangian"), ensemble, ORDERED)
    flow = solve(profile, MIX, node, method="eulerian_jax")
    check(flow, ensemble, MEAN_PROGRESS)
    assert [label.partition(" follow")[0] for label in flow.labels] == [
        "approximate: latencies under eviction"
    ]
    assert flow.metrics().to_json()["mean_itl"] is None
    assert weight(flow) == pytest.approx(profile.total)


def test_only_what_completed_is_counted_without_draining():
    node, (profile, end) = DecodeNode(B=None), CALM
    profile = horizon_at(profile, end)
    ensemble = runs(node, profile, until=end)
    for method in ("lagrangian", "eulerian_jax"):
        solution = solve(profile, MIX, node, method=method, drain=False)
        completed = solution.totals["completed"]
        assert 0.2 * profile.total < completed < 0.8 * profile.total
        assert weight(solution) == pytest.approx(completed, rel=0.01)
        check(solution, ensemble, CUT_SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_totals_of_a_burst_cut_short(mode):
    node, (profile, end) = DecodeNode(mode=mode, B=None), BURST
    profile = horizon_at(profile, end)
    ensemble = [values(run.metrics()) for run in runs(node, profile, until=end)]
    bounds = {
        "duration": 0.01, "completed": 0.06, "output_tokens": 0.05, "memory_utilization": 0.01,
        "gpu_utilization": 0.005, "processing_efficiency": 0.06, "evictions": 0.5,
        "recompute_waste": 0.25,
    }  # fmt: skip
    for method in ("lagrangian", "eulerian_jax"):
        solution = solve(profile, MIX, node, method=method, drain=False)
        mine = values(solution.metrics())
        for name, bound in bounds.items():
            reference = np.mean([each[name] for each in ensemble])
            assert mine[name] == pytest.approx(reference, rel=bound, abs=1e-9), (method, name)
    assert any("cut short" in label for label in solution.labels)
    assert weight(solution) <= solution.totals["completed"] * 1.01


def test_inter_token_latencies_weigh_tokens_after_the_first():
    node, (profile, _) = DecodeNode(B=None), CALM
    for method in ("lagrangian", "eulerian_jax"):
        samples = solve(profile, MIX, node, method=method).samples()
        expected = profile.total * (LENGTHS.mean() - 1)
        assert samples.itl_weight.sum() == pytest.approx(expected, rel=1e-3)
