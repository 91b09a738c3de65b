"""Saving, resuming, stepping, injecting, interrupting: none of it changes what happens."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import discrete
from discrete.decode_node import engine as _decode_node
from serving import ConfigError, DecodeNode, FileAccessError, RequestTable, WorkloadError

SPEC = importlib.util.spec_from_file_location("cases", Path(__file__).parent / "cases.py")
cases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cases)

SOME = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def bursty(size=300, seed=3, horizon=200.0):
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, horizon, size))
    return RequestTable.validated(arrival, rng.integers(1, 60, size), rng.integers(1, 80, size))


def assert_same_bytes(one, other, tmp_path):
    """Every run file of two runs has the same bytes."""
    written = []
    for name, run in (("one", one), ("other", other)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        written.append([path.read_bytes() for path in run.write(folder)])
    assert len(written[0]) == 4
    assert written[0] == written[1]


def assert_same_metrics(one, other):
    np.testing.assert_equal(one.metrics().to_json(), other.metrics().to_json())
    assert one.fragmentation() == other.fragmentation()


@SOME
@given(case=cases.cases(), pause=st.integers(0, 120))
def test_resume_equals_uninterrupted(case, pause, tmp_path):
    table, node, seed, most = case
    options = {"seed": seed, "record_events": True, "sample_times": np.arange(0, 60, 0.7)}
    whole = discrete.engine_for(table, node, **options)
    whole.advance(batches=max(most, pause))
    first = discrete.engine_for(table, node, **options)
    first.advance(batches=pause)
    path = tmp_path / "state.npz"
    discrete.save_state(first, path)
    again = discrete.resume(path)
    assert again.batch == first.batch and again.time == first.time
    again.advance(batches=max(most, pause) - again.batch)
    assert again.finished == whole.finished
    assert_same_bytes(whole.run(), again.run(), tmp_path)
    assert_same_metrics(whole.run(), again.run())
    assert (whole.samples == again.samples).all()


def test_saving_is_deterministic_and_leaves_one_file(tmp_path):
    engine = discrete.engine_for(bursty(), DecodeNode(M_total=1000))
    engine.advance(batches=77)
    for name in ("a", "b"):
        discrete.save_state(engine, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_file_that_is_no_state_is_refused(content, tmp_path):
    path = tmp_path / "state.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileAccessError, match=r"state\.npz"):
        discrete.resume(path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    engine = discrete.engine_for(bursty(20), DecodeNode(M_total=1000))
    monkeypatch.setattr("discrete._state_file.VERSION", 99)
    discrete.save_state(engine, tmp_path / "s")
    monkeypatch.undo()
    with pytest.raises(FileAccessError, match="version 99; allowed: 4"):
        discrete.resume(tmp_path / "s")


@SOME
@given(case=cases.cases(), steps=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_stepping_equals_running(case, steps, tmp_path):
    table, node, seed, most = case
    whole = discrete.engine_for(table, node, seed=seed, record_events=True)
    whole.advance(batches=most)
    engine = discrete.engine_for(table, node, seed=seed, record_events=True)
    turn = 0
    while not engine.finished and engine.batch < most:
        before = engine.batch
        step = min(steps[turn % len(steps)], most - engine.batch)
        stop = engine.advance(batches=step)
        assert stop == discrete.Stop.FINISHED or engine.batch == before + step
        turn += 1
    assert_same_bytes(whole.run(), engine.run(), tmp_path)


def test_chunks_and_small_sinks_change_nothing(tmp_path, monkeypatch):
    node = DecodeNode(M_total=600, B=300, mode="sacrifice", victim_policy="random")
    whole = discrete.simulate(bursty(), node, record_events=True)
    monkeypatch.setattr(_decode_node, "FUEL", 7)
    monkeypatch.setattr(_decode_node, "SINK_ROWS", (0, 8))
    seen = []
    parts = discrete.simulate(bursty(), node, record_events=True, progress=seen.append)
    assert_same_bytes(whole, parts, tmp_path)
    assert len(seen) > 100
    assert [s.batch for s in seen] == sorted(s.batch for s in seen)
    assert seen[-1].total == 300


def test_until_stops_at_the_first_boundary_from_then_on():
    table = RequestTable.validated([0.0, 50.0], [10, 10], [20, 5])
    engine = discrete.engine_for(table, DecodeNode())
    assert engine.advance(until=3.0) == discrete.Stop.UNTIL
    assert 3.0 <= engine.time < 3.0 + 1.02
    assert engine.advance(until=40.0) == discrete.Stop.UNTIL
    assert engine.time == 40.0  # nothing to do: it waits
    assert engine.run().duration == 40.0
    assert engine.advance() == discrete.Stop.FINISHED
    direct = discrete.simulate(table, DecodeNode())
    assert engine.run().requests["completion_time"].tolist() == (
        direct.requests["completion_time"].tolist()
    )


def test_a_run_does_not_change_when_its_engine_goes_on():
    engine = discrete.engine_for(bursty(), DecodeNode(M_total=1000))
    engine.advance(batches=50)
    early = engine.run()
    engine.advance()
    assert np.isnan(early.requests["completion_time"]).any()
    assert early.num_batches == 50 == early.batches.rows


@pytest.mark.parametrize("queue_policy", ["FCFS", "SJF"])
@pytest.mark.parametrize("replace", [True, False])
def test_injection_equals_a_table_that_knew(replace, queue_policy, tmp_path):
    """New requests from a time on: the same as if they had been in the table all along."""
    before, after, at = bursty(), bursty(80, seed=9, horizon=90.0), 100.0
    longer = RequestTable.validated(
        after.arrival_time, after.prefill_length, after.decode_length + 300
    )
    node = DecodeNode(M_total=1000, B=500, queue_policy=queue_policy)
    engine = discrete.engine_for(before, node, record_events=True)
    engine.advance(until=60.0)
    discrete.save_state(engine, tmp_path / "state")
    engine = discrete.resume(tmp_path / "state")
    engine.inject(longer, at=at, replace=replace)
    engine.advance()
    kept = before.arrival_time < at if replace else np.ones(len(before), bool)
    columns = [
        np.concatenate([getattr(before, name)[kept], getattr(longer, name)])
        for name in ("arrival_time", "prefill_length", "decode_length")
    ]
    columns[0][kept.sum() :] += at
    known = discrete.simulate(RequestTable.validated(*columns), node, record_events=True)
    assert len(engine.requests) == kept.sum() + 80
    assert_same_bytes(known, engine.run(), tmp_path)


def test_injection_after_the_end_goes_on():
    engine = discrete.engine_for(bursty(40), DecodeNode(), sample_times=np.arange(2000.0))
    engine.advance()
    end = engine.time
    engine.inject(RequestTable.validated([0.0], [5], [30]))
    assert not engine.finished
    engine.advance()
    run = engine.run()
    assert run.finished and run.requests["arrival_time"][-1] == end
    assert run.requests["completion_time"][-1] > end + 30
    trajectory = run.trajectory(np.arange(2000.0))
    assert trajectory("running", end + 5) == 1
    assert trajectory("completed", 1999.0) == 41


def test_injection_refuses_the_past_and_the_impossible():
    engine = discrete.engine_for(bursty(), DecodeNode(M_total=1000))
    engine.advance(until=50.0)
    with pytest.raises(ConfigError, match="not before the present"):
        engine.inject(bursty(5), at=10.0)
    with pytest.raises(WorkloadError, match="can never finish"):
        engine.inject(RequestTable.validated([0.0], [900], [200]))


def test_interrupt_is_honoured_between_chunks(monkeypatch):
    monkeypatch.setattr(_decode_node, "FUEL", 100)
    calls = []

    def impatient(progress):
        calls.append(progress.batch)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        discrete.simulate(bursty(), DecodeNode(M_total=1000), progress=impatient)
    assert len(calls) == 3


LONG = """
import sys, numpy as np, discrete
from serving import DecodeNode, RequestTable
discrete.simulate(RequestTable.validated([0.0], [1], [1]))
table = RequestTable.validated(np.zeros(20000), np.full(20000, 9), np.full(20000, 4000))
print("go", flush=True)
node = DecodeNode(M_total=5000, victim_policy=sys.argv[1], mode="sacrifice")
discrete.simulate(table, node, record_batches=False)
"""


@pytest.mark.parametrize("victim_policy", ["LIFO", "LRU"])
def test_ctrl_c_ends_a_long_run_at_once(victim_policy):
    command = [sys.executable, "-c", LONG, victim_policy]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "go\n"
        time.sleep(0.3)
        asked = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert time.perf_counter() - asked < 3
    assert process.returncode != 0 and errors.rstrip().endswith("KeyboardInterrupt")


def test_requests_that_evict_each_other_for_ever_are_refused():
    """Two requests of equal claim, the oldest of which always starts anew: nobody finishes."""
    table = RequestTable.validated([0.0, 0.0], [10, 10], [30, 30])
    node = DecodeNode(M_total=40, mode="sacrifice", victim_policy="FIFO")
    with pytest.raises(Exception, match="the run stalls") as caught:
        discrete.simulate(table, node)
    assert "\n" not in str(caught.value)
    limited = discrete.simulate(table, node, until=500.0)
    assert not limited.finished and limited.metrics().completed == 0


def test_a_damaged_state_is_refused(tmp_path):
    """Compiled code follows the links of a state: not one may be other than it was saved."""
    table = RequestTable.validated([0.0, 1.0, 2.0], [5, 6, 7], [8, 9, 10])
    engine = discrete.engine_for(table, DecodeNode())
    engine.advance(batches=3)
    discrete.save_state(engine, tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for change in ({"req": arrays["req"][:0]}, {"table_decode_length": np.array([8, 9, 11])}):
        np.savez(tmp_path / "changed.npz", **{**arrays, **change})
        with pytest.raises(FileAccessError, match="damaged"):
            discrete.resume(tmp_path / "changed.npz")
