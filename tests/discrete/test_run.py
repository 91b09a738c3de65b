"""Records, trajectories, latencies and files say the same thing in different ways."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import discrete
from serving import (
    BatchTimeLaw,
    DecodeNode,
    FileAccessError,
    FluidServeError,
    RequestTable,
    WorkloadError,
)

SPEC = importlib.util.spec_from_file_location("cases", Path(__file__).parent / "cases.py")
cases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cases)

HEADERS = {
    "batch_snapshots.csv": "time,batch_id,batch_size,batch_tokens,batch_duration,waiting_count,"
    "running_count,swapped_count,completed_count,gpu_memory_used,memory_utilization",
    "request_traces.csv": "req_id,arrival_time,prefill_length,decode_length,completion_time,"
    "first_enter_running_time,first_token_time,waiting_time,execution_time,swapped_time,"
    "swap_count,sacrifice_count,total_delay",
    "events.csv": "time,event_type,req_id,details",
    "memory_events.csv": "time,event_type,req_id,memory_before,memory_after,reason",
}


def table_of(size=200, seed=1, horizon=150.0):
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, horizon, size))
    return RequestTable.validated(arrival, rng.integers(1, 60, size), rng.integers(1, 80, size))


def pressed(**changes):
    return DecodeNode(**{"M_total": 700, "B": 400, **changes})


def test_by_hand():
    """Two requests, three batches, every time worked out on paper."""
    table = RequestTable.validated([0.0, 0.5, 9.0], [10, 20, 4], [2, 1, 1])
    run = discrete.simulate(table, DecodeNode(), record_events=True)
    # batch 0: 11 tokens; batch 1: 12 + 21 tokens; idle until 9; batch 2: 5 tokens
    one, two = 1 + 0.001 * 11, 1 + 0.001 * 33
    assert run.batches["batch_duration"].tolist() == [one, two, 1.005]
    assert run.requests["completion_time"].tolist() == [one + two, one + two, 9 + 1.005]
    assert run.requests["first_token_time"].tolist() == [one, one + two, 9 + 1.005]
    assert run.requests["waiting_time"].tolist() == [0.0, one - 0.5, 0.0]
    assert run.batches["waiting_count"].tolist() == [1, 0, 0]
    assert run.batches["gpu_memory_used"].tolist() == [11, 0, 0]
    assert list(zip(run.events["event_type"], run.events["req_id"], strict=True)) == [
        ("arrive", 0),
        ("admit", 0),
        ("arrive", 1),
        ("admit", 1),
        ("complete", 0),
        ("complete", 1),
        ("arrive", 2),
        ("admit", 2),
        ("complete", 2),
    ]
    metrics = run.metrics({"ttft": 1.5})
    assert metrics.completed == 3 and metrics.output_tokens == 4
    assert metrics.request_goodput == 2 / (9 + 1.005)
    assert metrics.latencies["itl"].mean == pytest.approx(two)
    assert metrics.latencies["tpot"].mean == pytest.approx(two)
    assert metrics.gpu_utilization == pytest.approx((one + two + 1.005) / 10.005)
    assert metrics.processing_efficiency == (10 * 2 + 3 + 21 + 5) / (3 * 2000)
    held = 10 * one + 31 * two + 4 * 1.005
    assert metrics.memory_utilization == pytest.approx(held / (10000 * 10.005))


def test_durations_are_the_law_of_the_instance():
    law = BatchTimeLaw(d_0=0.013, d_decode=0.0007, d_kv=0.00011, d_swap=0.003)
    run = discrete.simulate(table_of(horizon=1.0), pressed(batch_time=law))
    rows = run.batches
    no_swap = np.diff(rows["evicted_count"], prepend=0) == 0
    quiet = no_swap & (np.diff(rows["swapped_count"], prepend=0) == 0)
    expected = law.duration(rows["batch_tokens"], rows["batch_size"])
    assert quiet.sum() > 50 and (~quiet).sum() > 5
    assert (rows["batch_duration"][quiet] == expected[quiet]).all()
    assert (rows["batch_duration"][~quiet] > expected[~quiet]).all()


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(case=cases.cases())
def test_trajectories_agree(case):
    """Full, sampled afterwards, and sampled by the kernel: the same steps."""
    table, node, seed, most = case
    grid = np.unique(np.concatenate([np.linspace(0, 80, 117), table.arrival_time]))
    engine = discrete.engine_for(table, node, seed=seed)
    engine.advance(batches=most)
    run = engine.run()
    bare = discrete.engine_for(table, node, seed=seed, record_batches=False, sample_times=grid)
    bare.advance(batches=most)
    if not run.finished:
        grid = grid[grid < run.duration]
        assume(grid.size > 0)
    full, sampled, noted = run.trajectory(), run.trajectory(grid), bare.run().trajectory()
    assert (np.diff(full.time) >= 0).all()
    for name, values in sampled.outputs.items():
        assert (full(name, grid) == values).all(), name
        assert (noted(name, grid) == values).all(), name
    at_arrivals = np.searchsorted(table.arrival_time, grid, side="right")
    at_end = np.searchsorted(np.sort(run.requests["completion_time"]), grid, side="right")
    assert (sampled("in_system", grid) == at_arrivals - at_end).all()
    parts = [sampled(name, grid) for name in ("waiting", "running", "swapped")]
    assert (sum(parts) == sampled("in_system", grid)).all() and (parts[0] >= 0).all()


def test_trajectory_counts_arrivals_during_a_batch():
    table = RequestTable.validated([0.0, 0.25, 0.5], [10, 10, 10], [1, 1, 1])
    run = discrete.simulate(table, DecodeNode())
    assert run.trajectory([-1.0, 0.6]).outputs["waiting"].tolist() == [0, 2]
    trajectory = run.trajectory()
    t = np.array([0.0, 0.2, 0.25, 0.6, 1.0109, 1.0111, 2.0, 2.0331, 99.0])
    assert trajectory("waiting", t).tolist() == [0, 0, 1, 2, 2, 0, 0, 0, 0]
    assert trajectory("running", t).tolist() == [1, 1, 1, 1, 1, 2, 2, 0, 0]
    assert trajectory("completed", t).tolist() == [0, 0, 0, 0, 0, 1, 1, 3, 3]
    assert trajectory("batch_tokens", t).tolist() == [11] * 5 + [22] * 2 + [0] * 2


def test_files_have_the_documented_columns_and_read_back(tmp_path):
    import pandas as pd

    run = discrete.simulate(table_of(), pressed(mode="sacrifice"), record_events=True, until=120.0)
    paths = run.write(tmp_path)
    assert {path.name for path in paths} == set(HEADERS) == {p.name for p in tmp_path.iterdir()}
    for path in paths:
        assert path.read_text().splitlines()[0] == HEADERS[path.name]
    for path, records in zip(paths, (run.requests, run.batches), strict=False):
        back = pd.read_csv(path, dtype=str, keep_default_na=False)
        whole = records.to_frame()[list(back.columns)]
        assert len(back) == records.rows > 80
        pd.testing.assert_frame_equal(back.astype(whole.dtypes), whole, check_exact=True)
    assert np.isnan(run.requests["completion_time"]).any()
    assert "NaN" in paths[0].read_text() and "nan" not in paths[0].read_text()


@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
@pytest.mark.parametrize("victim_policy", ["LIFO", "random"])
def test_same_seed_same_bytes(mode, victim_policy, tmp_path):
    node = pressed(mode=mode, victim_policy=victim_policy)
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        run = discrete.simulate(table_of(), node, seed=5, record_events=True)
        assert run.metrics().evictions > 10
        written.append([path.read_bytes() for path in run.write(tmp_path / name)])
    assert written[0] == written[1]
    other = discrete.simulate(table_of(), node, seed=6).requests["completion_time"]
    same = (other == run.requests["completion_time"]).all()
    assert same == (victim_policy == "LIFO")


def test_what_was_not_recorded_is_said(tmp_path):
    run = discrete.simulate(table_of(), pressed(), record_batches=False)
    with pytest.raises(FluidServeError, match="record_batches=True"):
        _ = run.batches
    with pytest.raises(FluidServeError, match="record_events=True"):
        _ = run.events
    with pytest.raises(FluidServeError, match="sample_times"):
        run.trajectory()
    assert [path.name for path in run.write(tmp_path)] == ["request_traces.csv"]
    assert np.isnan(run.metrics().latencies["itl"].mean)
    assert run.metrics().completed == 200


def test_an_unwritable_folder_is_one_line(tmp_path):
    run = discrete.simulate(table_of(), pressed())
    with pytest.raises(FileAccessError, match="request_traces"):
        run.write(tmp_path / "nowhere")


def test_a_request_that_can_never_finish_names_its_row():
    table = RequestTable.validated([0.0, 1.0], [10, 695], [5, 6])
    with pytest.raises(WorkloadError, match="row 2"):
        discrete.simulate(table, pressed())


@pytest.mark.parametrize("times", [[1.0, 0.0], [0.0, float("nan")]])
def test_sample_times_must_be_a_grid(times):
    with pytest.raises(FluidServeError, match="sorted"):
        discrete.simulate(table_of(), pressed(), sample_times=times)


def test_swapped_time_is_paid_in_the_next_batch():
    law = BatchTimeLaw.per_token(1.0, 0.0, d_swap=0.5)
    table = RequestTable.validated([0.0, 0.0], [10, 10], [6, 6])
    # 26 tokens hold both up to k = 2 (24 + 2 = 26); at k = 3 the younger is swapped out
    run = discrete.simulate(table, DecodeNode(batch_time=law, M_total=26), record_events=True)
    events = zip(run.events["time"], run.events["event_type"], run.events["details"], strict=True)
    moves = [event for event in events if event[1].startswith("swap")]
    assert moves == [(3.0, "swap_out", "decoded=3"), (12.5, "swap_in", "decoded=3")]
    durations = run.batches["batch_duration"].tolist()
    assert durations == [1, 1, 1, 1 + 0.5 * 13, 1, 1, 1 + 0.5 * 13, 1, 1]
    assert run.requests["swapped_time"].tolist() == [0.0, 9.5]
