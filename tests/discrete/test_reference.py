"""The compiled engine equals the plain reading of its semantics, bit for bit."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings

import discrete

SPEC = importlib.util.spec_from_file_location("cases", Path(__file__).parent / "cases.py")
cases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cases)

MANY = settings(
    max_examples=700,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def both(case, reference):
    table, node, rng_seed, most_batches = case
    engine = discrete.engine_for(table, node, seed=rng_seed, record_events=True)
    engine.advance(batches=most_batches)
    expected = reference(table, node, seed=rng_seed, **cases.user_functions(node))
    return engine.run(), expected.run(most_batches)


@MANY
@given(case=cases.cases())
def test_engine_equals_reference(case, reference):
    run, expected = both(case, reference)
    cases.assert_same_runs(run, expected)
    assert run.finished == expected.finished
    assert_conserved(run, *case[:2])
    assert_metrics(run, expected)


def assert_conserved(run, table, node):
    """Requests and KV are conserved at every batch and in the end."""
    batches, requests = run.batches, run.requests
    arrived = np.searchsorted(table.arrival_time, batches["time"], side="right")
    inside = batches["waiting_count"] + batches["running_count"] + batches["swapped_count"]
    assert (inside + batches["completed_count"] == arrived).all()
    assert (batches["waiting_count"] >= 0).all()
    full = batches["memory_during"] + batches["running_during"] > node.M_total
    assert (batches["running_during"][full] == 1).all()
    ledger = run.memory_events
    change = ledger["memory_after"] - ledger["memory_before"]
    assert change.sum() + batches["batch_size"].sum() == batches["gpu_memory_used"][-1]
    done = ~np.isnan(requests["completion_time"])
    assert done.sum() == batches["completed_count"][-1]
    if run.finished:
        assert done.all() and batches["gpu_memory_used"][-1] == 0
        wasted = run.metrics().recompute_waste
        assert batches["batch_size"].sum() == table.decode_length.sum() + wasted
    took = np.where(done, requests["completion_time"], run.duration) - table.arrival_time
    here = table.arrival_time <= run.duration
    np.testing.assert_allclose(requests["total_delay"][here], took[here], rtol=1e-9, atol=1e-9)


def assert_metrics(run, expected):
    """Integrals are sums over the reference's batches; latencies are those of its tokens."""
    metrics, node = run.metrics(), expected.node
    end = expected.t
    assert metrics.duration == end and metrics.evictions == expected.evicted
    assert metrics.recompute_waste == expected.wasted
    if end > 0:
        assert metrics.memory_utilization == expected.memory_time / (node.M_total * end)
        assert metrics.gpu_utilization == expected.busy / end
        blocked = run.fragmentation()["blocked"]
        assert blocked == expected.blocked_time / (node.M_total * end)
    assert metrics.output_tokens == sum(r.furthest for r in expected.requests)
    useful = sum(r.p * f + f * (f + 1) / 2 for r in expected.requests for f in [r.furthest])
    capacity = min(node.M_total, node.token_budget) * expected.batch
    assert metrics.processing_efficiency == pytest.approx(useful / capacity)
    samples = run.samples()
    gaps = np.concatenate([np.diff(r.token_times) for r in expected.requests])
    got = np.repeat(samples.itl, samples.itl_weight.astype(int))
    np.testing.assert_allclose(np.sort(got), np.sort(gaps), rtol=1e-9, atol=1e-9)


def test_cases_reach_everything(reference):
    """The generator does produce what the semantics are about, for every policy."""
    seen: dict[str, int] = {}

    def count(name, happened):
        seen[name] = seen.get(name, 0) + int(happened)

    @seed(20240707)
    @settings(MANY, max_examples=700, database=None)
    @given(case=cases.cases())
    def collect(case):
        table, node, *_ = case
        run, _ = both(case, reference)
        kinds = run.events["event_type"]
        swapped, sacrificed = (kinds == "swap_out").sum(), (kinds == "sacrifice").sum()
        count("swap-outs", swapped)
        count("swap-ins", (kinds == "swap_in").sum())
        count("sacrifices", sacrificed)
        count(f"{node.mode} by {node.victim_policy[-9:]}", swapped + sacrificed)
        out = run.batches
        count("budget binds", (out["batch_size"] < out["running_during"]).any())
        count("one over budget", node.B is not None and (out["batch_tokens"] > node.B).any())
        waits = run.requests["waiting_time"] > 0
        count(f"queue {node.queue_policy[-9:]} waits", waits.sum() > 3)
        count("ties", (np.diff(table.arrival_time) == 0).any())
        free = node.M_total - out["memory_during"] - out["running_during"]
        blocked = np.isin(out["batch_id"] + 1, out["batch_id"][out["waiting_count"] > 0])
        count("head of line blocks", (free[blocked] > table.prefill_length.min() + 1).any())
        limit = node.admission_threshold * node.M_total
        count(
            "threshold binds", node.admission_threshold < 1 and (out["memory_during"] > limit).any()
        )
        first = run.requests["first_enter_running_time"]
        count("overtaking", (np.diff(first) < 0).any())
        count("idle times", (out["start_time"][1:] > out["time"][:-1]).any())
        several = np.diff(out["evicted_count"], prepend=0) > 1
        count("several victims at once", several.any())

    collect()
    rare = {name: times for name, times in seen.items() if times < 5}
    assert not rare, rare
    assert len([name for name in seen if " by " in name]) == 2 * 6
    assert seen["swap-outs"] >= seen["swap-ins"] > 300
    assert seen["sacrifices"] > 300
