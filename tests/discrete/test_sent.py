"""Requests sent one at a time: the same run, bit for bit, as when all are known beforehand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import blank_reports, engine_for, simulate
from serving import (
    BatchTimeLaw,
    ConfigError,
    Contents,
    DecodeNode,
    RequestTable,
    UnsupportedError,
    VllmV0,
    VllmV1,
)

SPEC = importlib.util.spec_from_file_location("cases", Path(__file__).parent / "cases.py")
cases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cases)

LAW = BatchTimeLaw(d_0=0.01, d_kv=1e-5, d_decode=1e-4, d_prefill=2e-4)


def sent_to(engines, requests, choices, delays, *, delay=0.0, period=0.0):
    """Send each request, ``delays`` after it came, to the engine of its choice; return reports."""
    reports = blank_reports(len(engines))
    for engine in engines:
        engine.hold_back()
        engine.bind()
    seen = []
    for row, (choice, late) in enumerate(zip(choices, delays, strict=True)):
        now = float(requests.arrival_time[row])
        for i, engine in enumerate(engines):
            done = 0
            while done < 1:
                where = np.array([i])
                done = engine.refresh(engine.state, reports, where, 0, now, delay, period)
                if done < 1:
                    engine.advance(until=now)
        seen.append(reports.copy())
        engines[choice].send(row, now + late)
    for engine in engines:
        engine.advance()
    return seen


def assert_alone_is_the_same(engine, seed):
    """Compare a run of requests sent one at a time with one of a table."""
    run, alone = engine.run(), simulate(engine.requests, engine.instance, seed=seed)
    assert run.finished == alone.finished
    for table in ("requests", "batches", "spans"):
        mine, other = getattr(run, table), getattr(alone, table)
        assert list(mine) == list(other)
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=f"{table} {name}")
    assert run.totals().keys() == alone.totals().keys()
    np.testing.assert_array_equal(list(run.totals().values()), list(alone.totals().values()))


@st.composite
def sendings(draw, size):
    """Choices among engines, and delays that keep the order of arrival."""
    number = draw(st.integers(1, 3))
    choices = draw(st.lists(st.integers(0, number - 1), min_size=size, max_size=size))
    late = draw(st.sampled_from([0.0, 0.3, 2.5]))
    return number, choices, [late] * size


@st.composite
def servers(draw, table):
    """vLLM servers of both engines that the longest request of a table fits."""
    need = int((table.prefill_length + table.decode_length).max())
    size = draw(st.sampled_from([1, 4, 16]))
    blocks = need // size + 4 + draw(st.integers(0, 20))
    seats = draw(st.sampled_from([1, 3, 16]))
    common = {
        "batch_time": LAW, "block_size": size, "num_gpu_blocks": blocks, "max_num_seqs": seats,
        "max_num_batched_tokens": max(need, seats) + draw(st.integers(0, 20)),
        "cpu_gap": draw(st.sampled_from([0.0, 0.004])),
    }  # fmt: skip
    if draw(st.booleans()):
        return VllmV0(**common, watermark=0.0, enable_chunked_prefill=draw(st.booleans()))
    return VllmV1(
        **common,
        async_scheduling=draw(st.booleans()),
        enable_prefix_caching=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
        ignore_eos=draw(st.booleans()),
    )


def ends(node):
    """Tell nodes on which requests cannot evict each other for ever."""
    return node.mode != "sacrifice" or node.victim_policy in ("LIFO", "LRU")


@settings(max_examples=60)
@given(st.data())
def test_decode_nodes(data):
    table = data.draw(cases.tables(most=25))
    number, choices, delays = data.draw(sendings(len(table)))
    nodes = [data.draw(cases.nodes(table).filter(ends)) for _ in range(number)]
    engines = [engine_for(table, node, seed=i) for i, node in enumerate(nodes)]
    sent_to(engines, table, choices, delays)
    for i, engine in enumerate(engines):
        if engine.batch:
            assert_alone_is_the_same(engine, i)


@settings(max_examples=60)
@given(st.data())
def test_vllm_servers(data):
    table = data.draw(cases.tables(most=25))
    table = table.stretched(data.draw(st.sampled_from([0.0, 0.01, 0.1])))
    ids = data.draw(st.lists(st.integers(1, 3), min_size=len(table), max_size=len(table)))
    contents = Contents.validated(np.arange(len(table) + 1), ids, table.prefill_length)
    table = RequestTable.from_arrays(table.arrays() | {
        f"contents_{name}": getattr(contents, name)
        for name in ("first", "piece_id", "piece_length", "answer")
    })  # fmt: skip
    number, choices, delays = data.draw(sendings(len(table)))
    engines = [engine_for(table, data.draw(servers(table)), seed=i) for i in range(number)]
    sent_to(engines, table, choices, [each / 50 for each in delays])
    for i, engine in enumerate(engines):
        if engine.batch:
            assert_alone_is_the_same(engine, i)


def node_and_server():
    rng = np.random.default_rng(3)
    size = 300
    lengths = rng.integers(1, 60, size), rng.integers(1, 40, size)
    node = DecodeNode(M_total=600, B=400)
    server = VllmV1(
        batch_time=LAW, num_gpu_blocks=60, max_num_batched_tokens=256, max_num_seqs=16,
        async_scheduling=False,
    )  # fmt: skip
    slow = RequestTable.validated(np.cumsum(rng.exponential(3.0, size)), *lengths)
    return (slow, node), (slow.stretched(0.03), server)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("period", [-1.0, 0.0, 7.0])
def test_reports_are_what_the_run_says_of_that_time(which, period):
    table, instance = node_and_server()[which]
    late = 0.0 if period < 0 else 0.2
    engine = engine_for(table, instance)
    seen = sent_to([engine], table, [0] * len(table), [0.0] * len(table),
                   delay=late, period=period)  # fmt: skip
    told = np.concatenate(seen)
    run = engine.run()
    trajectory = run.trajectory(np.maximum(told["time"], 0.0))
    requests, batches = run.requests, run.batches
    prompts = table.prefill_length
    compared = 0
    for k, one in enumerate(told):
        time, now = one["time"], table.arrival_time[k] - late
        if period > 0:
            assert time in (0.0, np.floor(now / period) * period)
        elif period == 0:
            assert time in (0.0, now)
        assert time <= max(now, 0.0)
        # whoever comes at the very moment that is told may not have been sent yet
        came = (table.arrival_time <= time) & (np.arange(len(table)) < k)
        assert one["arrived"] == came.sum()
        pending = came & ~(requests["first_token_time"] <= time)
        waiting = came & ~(requests["first_enter_running_time"] <= time)
        assert one["pending_prompts"] == prompts[pending].sum()
        assert one["waiting_prompts"] == prompts[waiting].sum()
        assert one["batches"] == (batches["time"] <= time).sum()
        if np.isfinite(one["batch_start"]):
            compared += 1
            for ours, theirs in (("running", "running"), ("memory", "memory"),
                                 ("evicted", "evicted"), ("left", "completed")):  # fmt: skip
                assert one[ours] == trajectory.outputs[theirs][k], (ours, k)
            assert one["batch_start"] <= time < one["batch_start"] + one["batch_duration"]
    assert compared > 50


@pytest.mark.parametrize("which", [0, 1])
def test_members_are_those_whose_tokens_came(which):
    table, instance = node_and_server()[which]
    engine = engine_for(table, instance)
    sent_to([engine], table, [0] * len(table), [0.0] * len(table))
    rows = engine.batch_rows(0, engine.batch)
    run = engine.run()
    assert np.array_equal(rows["end"], run.batches["time"])
    started, finished = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    oldest, starts, ends = 0, [], []
    for k in range(engine.batch):
        one, two, oldest = engine.members(engine.state, k, oldest, started, finished)
        assert np.array_equal(
            np.sort(started[:one]),
            np.flatnonzero(run.requests["first_token_time"] == rows["end"][k]),
        )
        starts += started[:one].tolist()
        ends += finished[:two].tolist()
    assert sorted(starts) == sorted(ends) == list(range(len(table)))
    assert oldest == len(table)
    part = engine.batch_rows(5, 9)
    assert np.array_equal(part, rows[5:9])


def test_a_saved_engine_goes_on_alike():
    (table, node), _ = node_and_server()
    engine = engine_for(table, node)
    sent_to([engine], table.take(np.arange(100)), [0] * 100, [0.0] * 100)
    engine.send(100, float(table.arrival_time[100]))
    other = engine_for(engine.requests, node)
    other.restore({name: array.copy() for name, array in engine.arrays().items()})
    for each in (engine, other):
        each.advance()
    for name, column in other.run().requests.items():
        np.testing.assert_array_equal(column, engine.run().requests[name])


def test_what_cannot_be_sent():
    (table, node), (other, server) = node_and_server()
    engine = engine_for(table, node)
    with pytest.raises(UnsupportedError, match="holds no requests back"):
        engine.send(0, 0.0)
    engine.hold_back()
    engine.send(3, 5.0)
    with pytest.raises(ConfigError, match="not sent before"):
        engine.send(3, 6.0)
    with pytest.raises(ConfigError, match="not before the request sent last"):
        engine.send(4, 4.0)
    with pytest.raises(UnsupportedError, match="sample_times"):
        engine_for(table, node, sample_times=[1.0]).hold_back()
    begun = engine_for(table, node)
    begun.advance(batches=30)
    with pytest.raises(UnsupportedError, match="before the first has come"):
        begun.hold_back()
    talk = RequestTable.validated([0.0, 1.0], [5, 5], [3, 3], session=[0, 0])
    with pytest.raises(UnsupportedError, match="session"):
        engine_for(talk, server).hold_back()
    with pytest.raises(UnsupportedError, match="max-concurrency"):
        engine_for(other, server, max_concurrency=3).hold_back()
    cached = engine_for(other, server)
    cached.hold_back()
    with pytest.raises(UnsupportedError, match="prefix cache"):
        cached.arrays()
